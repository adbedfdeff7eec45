"""What makes Airflow a distributed one: Redis, from Debian's packages, and Celery workers."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stack import postgres
from stack.debian_packages import library_path, unpacked
from stack.readiness import redis_answers, worker_answers
from stack.site import LOCAL, Service, Site
from stack.supervision import Program


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which Airflow hands its tasks to Celery workers, and MLflow keeps its state in PostgreSQL, too."""
    server = postgres.address(site)
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        # A busy machine does not hand a task over within the default, 1 s.
        "AIRFLOW__CELERY__OPERATION_TIMEOUT": "10",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{site.secret('redis-password')}@{LOCAL}:{site.ports['redis']}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{server}/airflow",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql://{server}/mlflow",
    }


def redis_root(repo: Path) -> Path:
    """Return the folder in which Redis' packages are unpacked."""
    return unpacked(repo / ".cache" / "redis", ["redis-server"], ("lib", "redis-"))


def redis(site: Site, env: Mapping[str, str]) -> Service:
    """Redis, which keeps what it was given across a restart."""
    root = redis_root(site.repo)
    home = site.state_dir / "redis"
    home.mkdir(mode=0o700, exist_ok=True)
    password, port = site.secret("redis-password"), site.ports["redis"]
    lines = [
        f"bind {LOCAL}",
        f"port {port}",
        f"requirepass {password}",
        f"dir {home}",
        'save ""',
        "appendonly yes",
    ]
    (home / "redis.conf").write_text("\n".join(lines) + "\n")
    argv = [str(root / "usr/bin/redis-server"), str(home / "redis.conf")]
    return Service(
        programs=[Program("redis", argv, {**env, "LD_LIBRARY_PATH": library_path(root)})],
        probe=lambda: redis_answers(LOCAL, port, password),
        ports=["redis"],
    )


def worker(site: Site, env: Mapping[str, str]) -> Service:
    """A Celery worker of an Airflow whose settings are among the site's further variables; its host has the site's name."""
    host = site.state_dir.name
    home = site.state_dir / "airflow"
    home.mkdir(exist_ok=True)
    own = {
        **env,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(site.state_dir / "logs" / "airflow-tasks"),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": f"{host_name.__module__}.{host_name.__name__}",
        "STACK_HOST": host,
    }
    argv = [
        *(sys.executable, "-m", "airflow", "celery", "worker", "--celery-hostname", f"airflow@{host}"),
        # A server of its logs would listen on all interfaces, and both hosts' on one port.
        *("--concurrency", "2", "--skip-serve-logs", "--without-gossip", "--without-mingle"),
    ]
    return Service(
        # Its supervisors of tasks see their work to an end when it is told to stop.
        programs=[Program("worker", argv, own, stop_group=False, stop_wait_s=20)],
        probe=lambda: worker_answers(
            env["AIRFLOW__CELERY__BROKER_URL"],
            f"airflow@{host}",
            env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"],
        ),
        ports=[],
    )


def host_name() -> str:
    """Return what Airflow calls the host of a worker."""
    return os.environ["STACK_HOST"]
