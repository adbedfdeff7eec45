"""A Celery worker of an Airflow that runs in another stack."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ..readiness import worker_answers
from ..site import Service, Site
from ..supervision import Program


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return the worker.

    Args:
        site: its state directory has the name of the host.
        env: has the settings of the Airflow that the worker belongs to.
    """
    host = site.state_dir.name
    home = site.state_dir / "airflow"
    home.mkdir(exist_ok=True)
    worker_env = {
        **env,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(site.state_dir / "logs" / "airflow-tasks"),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": f"{host_name.__module__}.{host_name.__name__}",
        "STACK_HOST": host,
    }
    argv = [
        *(sys.executable, "-m", "airflow", "celery", "worker", "--celery-hostname", f"airflow@{host}"),
        # Log servers would listen on all interfaces, and those of both hosts on one port.
        *("--concurrency", "2", "--skip-serve-logs", "--without-gossip", "--without-mingle"),
    ]
    return Service(
        # When the worker is told to stop, the supervisors of its tasks let these end.
        programs=[Program("worker", argv, worker_env, stop_group=False, stop_wait_s=20)],
        probe=lambda: worker_answers(
            env["AIRFLOW__CELERY__BROKER_URL"],
            f"airflow@{host}",
            env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"],
        ),
        ports=[],
    )


def host_name() -> str:
    """Return the name by which Airflow knows the host of this worker."""
    return os.environ["STACK_HOST"]
