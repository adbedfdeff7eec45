"""Airflow: API server, scheduler and dag-processor."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from ..readiness import airflow_runs, answers
from ..site import LOCAL, Service, Site
from ..supervision import Program


def environment(site: Site) -> dict[str, str]:
    """Return Airflow's settings, and the variables by which clients log in."""
    home = site.state_dir / "airflow"
    settings = {
        "CORE__DAGS_FOLDER": str(site.dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__EXECUTION_API_SERVER_URL": f"{site.url('airflow')}/execution/",
        "CORE__FERNET_KEY": site.secret("airflow-fernet-key"),
        # The API server answers late while all servers share two cores; after the default, 5 s, a task
        # loses a try.
        "WORKERS__EXECUTION_API_TIMEOUT": "30",
        # The default asks DNS for the full name of the host, which takes seconds and may get no answer.
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{site.airflow_login[0]}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        # The API server commits on its event loop: when requests that wait for the loop hold all
        # connections of the default, 15, no request is answered for 30 s.
        "DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": "95",
        "API__BASE_URL": site.url("airflow"),
        "API__SECRET_KEY": site.secret("airflow-api-key"),
        "API_AUTH__JWT_SECRET": site.secret("airflow-jwt"),
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        # A new scheduler adopts the tasks of a killed one after this time; the default is five minutes.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        # No log server listens here; the default port may be another installation's.
        "LOGGING__WORKER_LOG_SERVER_PORT": str(site.ports["airflow"]),
        "LOGGING__BASE_LOG_FOLDER": str(site.state_dir / "logs" / "airflow-tasks"),
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    username, password = site.airflow_login
    return {
        "AIRFLOW_HOME": str(home),
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "STACK_AIRFLOW_URL": site.url("airflow"),
        "STACK_AIRFLOW_USERNAME": username,
        "STACK_AIRFLOW_PASSWORD": password,
    }


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return Airflow without its triggerer; Airflow is ready when the site's DAGs are parsed."""
    home = site.state_dir / "airflow"
    home.mkdir(exist_ok=True)
    (home / "passwords.json").write_text(json.dumps(dict([site.airflow_login])))
    (home / "config").mkdir(exist_ok=True)
    shutil.copy(site.repo / "deploy/airflow/airflow_local_settings.py", home / "config")
    address = ["--host", LOCAL, "--port", str(site.ports["airflow"])]
    built = datetime.now(UTC)
    return Service(
        first=component(env, "migrate", "db", "migrate", one_shot=True),
        programs=[
            component(env, "api-server", "api-server", *address, "--workers", "1"),
            component(env, "dag-processor", "dag-processor"),
            # Its log server would listen on all interfaces; the API server reads the files itself.
            component(env, "scheduler", "scheduler", "--skip-serve-logs"),
        ],
        # A task fails if it finds no API server within ten seconds, so nothing is scheduled before the
        # server answers.
        held={"airflow-scheduler": lambda: answers(f"{site.url('airflow')}/execution/health")},
        probe=lambda: airflow_runs(site.url("airflow"), site.airflow_login, site.dag_ids, built),
        ports=["airflow"],
        after=["postgres", "redis"],
    )


def component(env: Mapping[str, str], name: str, *args: str, one_shot: bool = False) -> Program:
    """Return the process ``airflow-<name>``, which runs ``airflow <args>``."""
    return Program(f"airflow-{name}", [sys.executable, "-m", "airflow", *args], env, one_shot=one_shot)
