"""What makes Airflow a distributed one: PostgreSQL and Redis, from Debian's packages, and Celery workers."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.debian_packages import library_path, unpacked
from stack.readiness import databases_are_there, redis_answers, worker_answers
from stack.site import LOCAL, Service, Site
from stack.supervision import Program

DATABASES = ("airflow", "mlflow")
POSTGRES_PROGRAMS = "usr/lib/postgresql/15/bin"
_USER = "stack"
_NOBODY = "65534"


def postgres_environment(site: Site) -> dict[str, str]:
    """Return the variables by which Airflow and MLflow keep their state in PostgreSQL."""
    server = f"{_USER}:{site.secret('postgres-password')}@{LOCAL}:{site.ports['postgres']}"
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{server}/airflow",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://{server}/airflow",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql://{server}/mlflow",
    }


def redis_environment(site: Site) -> dict[str, str]:
    """Return the variables by which Airflow hands its tasks to Celery workers."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        # A busy machine does not hand a task over within the default, 1 s.
        "AIRFLOW__CELERY__OPERATION_TIMEOUT": "10",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{site.secret('redis-password')}@{LOCAL}:{site.ports['redis']}/0",
    }


def postgres_root(repo: Path) -> Path:
    """Return the folder in which PostgreSQL's packages are unpacked, server and clients."""
    packages = ["postgresql-15", "postgresql-client-15"]
    return unpacked(repo / ".cache" / "postgresql", packages, ("lib", *packages))


def postgres(site: Site, env: Mapping[str, str]) -> Service:
    """PostgreSQL 15 with a database for Airflow and one for MLflow."""
    root = postgres_root(site.repo)
    programs = root / POSTGRES_PROGRAMS
    data = site.state_dir / "postgres"
    data.mkdir(mode=0o700, exist_ok=True)
    prefix: list[str] = []
    if os.geteuid() == 0:
        # It refuses to be root. Nobody is let through folders that are root's, such as pytest's, and has no other right.
        prefix = [
            "setpriv",
            *(f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--securebits=+no_setuid_fixup"),
            *(
                "--inh-caps=+dac_override",
                "--ambient-caps=+dac_override",
                "--bounding-set=-all,+dac_override",
            ),
            "--pdeathsig=INT",
        ]
        os.chown(data, int(_NOBODY), int(_NOBODY))
    own = {**env, "LD_LIBRARY_PATH": library_path(root)}
    options = {
        "listen_addresses": LOCAL,
        "port": str(site.ports["postgres"]),
        "unix_socket_directories": "",
        "max_connections": "200",
        "jit": "off",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    password = site.secret("postgres-password")
    make = [
        *(str(programs / "initdb"), "--pgdata", str(data), "--username", _USER, "--auth", "scram-sha-256"),
        *("--pwfile", str(site.state_dir / "secrets/postgres-password")),
        *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
    ]
    is_made = (data / "PG_VERSION").exists()
    return Service(
        first=None if is_made else Program("postgres-init", [*prefix, *make], own, one_shot=True),
        programs=[
            Program(
                "postgres",
                [*prefix, str(programs / "postgres"), "-D", str(data), *flags],
                own,
                stop_group=False,
                # TERM would wait for the clients to go.
                stop_signal="INT",
            )
        ],
        probe=lambda: databases_are_there(LOCAL, site.ports["postgres"], _USER, password, DATABASES),
        ports=["postgres"],
    )


def redis(site: Site, env: Mapping[str, str]) -> Service:
    """Redis, which keeps what it was given across a restart."""
    root = unpacked(site.repo / ".cache" / "redis", ["redis-server"], ("lib", "redis-"))
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
