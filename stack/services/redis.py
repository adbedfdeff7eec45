"""Redis, from Debian's packages: makes Airflow a distributed one, with Celery workers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..debian_packages import library_path, unpacked
from ..readiness import redis_answers
from ..site import LOCAL, Service, Site
from ..supervision import Program
from . import postgres


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which Airflow uses Celery workers, and MLflow keeps its state in PostgreSQL."""
    server = postgres.address(site)
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        # A busy machine does not hand a task over within the default, 1 s.
        "AIRFLOW__CELERY__OPERATION_TIMEOUT": "10",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{site.secret('redis-password')}@{LOCAL}:{site.ports['redis']}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{server}/airflow",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql://{server}/mlflow",
    }


def installation(repo: Path) -> Path:
    """Return the folder in which the packages of Redis are unpacked."""
    return unpacked(repo / ".cache" / "redis", ["redis-server"], ("lib", "redis-"))


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return Redis, which keeps its data across a restart."""
    root = installation(site.repo)
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
