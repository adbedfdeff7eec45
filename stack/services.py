"""What each server is: its processes, their environment, and how to see that it is ready."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from stack import distributed_services, postgres, triton_servers
from stack.errors import StackError
from stack.readiness import airflow_component_runs, airflow_runs, answers, bucket_is_there
from stack.site import LOCAL, Service, Site
from stack.supervision import Program
from stack.triton_servers import STAGING

SERVICES = ("s3", "postgres", "mlflow", "triton", STAGING, "airflow", "triggerer", "gateway", "events")
WITH_PROMETHEUS = (*SERVICES, "prometheus")
"""Those, and what is started where it is installed."""
DISTRIBUTED = ("redis", "worker")
"""What makes Airflow a distributed one, on request only; what these say of it wins over what `airflow` says."""
ALL = (*WITH_PROMETHEUS, *DISTRIBUTED)

BUCKET = "mlflow"
_ACCESS_KEY = "stack"
_REGION = "us-east-1"

# What the caller's shell exports for another installation must not reach these servers.
_FOREIGN = (
    "AIRFLOW",
    "MLFLOW_",
    "AWS_",
    "TRITON_",
    "GATEWAY_",
    "GATE_",
    "RETRAIN_",
    "PROMETHEUS_",
    "RCLONE_",
    "STACK_",
    "PYTHON",
    "LD_LIBRARY_PATH",
)


def client_environment(site: Site, names: Collection[str]) -> dict[str, str]:
    """Return the variables that a client of the services `names` needs besides its own."""
    environment = {
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), LOCAL])),
        # On Linux too ONNX Runtime keeps a database of its use, and its library can send it.
        "ORT_DISABLE_TELEMETRY": "1",
    }
    for name in ALL:
        if name in names:
            environment |= _ENVIRONMENTS[name](site)
    return {**environment, **site.extra}


def _s3_environment(site: Site) -> dict[str, str]:
    return {
        "MLFLOW_S3_ENDPOINT_URL": site.url("s3"),
        # All of the bucket is MLflow's: experiments past its proxy have folders of their own in it.
        "TRITON_DEPLOY_ARTIFACT_ROOTS": f"s3://{BUCKET}",
        "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": site.secret("s3-secret-key"),
        "AWS_DEFAULT_REGION": _REGION,
        # rclone answers a ranged GET with the checksum of the whole object; botocore would object.
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def _mlflow_environment(site: Site) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": site.url("mlflow"),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _gateway_environment(site: Site) -> dict[str, str]:
    return {"STACK_GATEWAY_URL": site.url("gateway"), "TRITON_DEPLOY_GATEWAY_URLS": site.url("gateway")}


def _prometheus_environment(site: Site) -> dict[str, str]:
    # Nobody who tries it out wants to wait for a quarter of an hour.
    return {"TRITON_DEPLOY_PROMETHEUS_URL": site.url("prometheus"), "TRITON_DEPLOY_BAKE_MINUTES": "2"}


def _events_environment(site: Site) -> dict[str, str]:
    return {"STACK_EVENTS_URL": site.url("events")}


def _airflow_environment(site: Site) -> dict[str, str]:
    home = site.state_dir / "airflow"
    settings = {
        "CORE__DAGS_FOLDER": str(site.dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__EXECUTION_API_SERVER_URL": f"{site.url('airflow')}/execution/",
        "CORE__FERNET_KEY": site.secret("airflow-fernet-key"),
        # With everything on two cores the API server may answer late; after the default of 5 s a task loses a try for it.
        "WORKERS__EXECUTION_API_TIMEOUT": "30",
        # The default asks DNS for the host's full name: seconds, and maybe no answer.
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{site.airflow_login[0]}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        # The API server commits on its event loop: when requests that wait for that have all connections of the default, 15,
        # nothing is answered for 30 s.
        "DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": "95",
        "API__BASE_URL": site.url("airflow"),
        "API__SECRET_KEY": site.secret("airflow-api-key"),
        "API_AUTH__JWT_SECRET": site.secret("airflow-jwt"),
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        # What ran under a scheduler that was killed is taken up this soon, not after five minutes.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        # Nothing listens for that; the default port may be another installation's.
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


_ENVIRONMENTS: Mapping[str, Callable[[Site], dict[str, str]]] = {
    "s3": _s3_environment,
    "postgres": postgres.environment,
    "mlflow": _mlflow_environment,
    "triton": triton_servers.serving_environment,
    STAGING: triton_servers.staging_environment,
    "airflow": _airflow_environment,
    "triggerer": lambda site: {},
    "gateway": _gateway_environment,
    "events": _events_environment,
    "prometheus": _prometheus_environment,
    "redis": distributed_services.environment,
    "worker": lambda site: {},
}


def build(site: Site, names: Collection[str]) -> dict[str, Service]:
    """Write the files that the servers need before they start, and return the services `names`.

    Raises:
        StackError: something that Triton needs is not installed.
    """
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)},
        **client_environment(site, names),
    }
    return {name: _BUILDERS[name](site, env) for name in ALL if name in names}


def _s3(site: Site, env: Mapping[str, str]) -> Service:
    root = site.state_dir / "s3"
    root.mkdir(exist_ok=True)
    secret_key = site.secret("s3-secret-key")
    rclone_env = {
        **env,
        # In the environment, where `ps` does not show it; the value is a CSV record.
        "RCLONE_AUTH_KEY": f'"{_ACCESS_KEY},{secret_key}"',
        "RCLONE_CONFIG": str(site.state_dir / "rclone.conf"),
    }
    rclone = str(Path(sys.executable).with_name("rclone"))
    address = urlsplit(site.url("s3")).netloc
    argv = [rclone, "serve", "s3", str(root), "--addr", address]
    return Service(
        programs=[Program("s3", argv, rclone_env)],
        probe=lambda: bucket_is_there(site.url("s3"), _ACCESS_KEY, secret_key, BUCKET),
        ports=["s3"],
    )


def _mlflow(site: Site, env: Mapping[str, str]) -> Service:
    home = site.state_dir / "mlflow"
    home.mkdir(exist_ok=True)
    options = {
        "--artifacts-destination": f"s3://{BUCKET}/artifacts",
        "--host": LOCAL,
        "--port": str(site.ports["mlflow"]),
        "--workers": "1",
    }
    argv = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *_flat(options)]
    # Background jobs of the server: eight more processes that nothing here uses.
    mlflow_env = {
        # In the environment, where `ps` does not show it: a database's address has a password in it.
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home / 'mlflow.db'}",
        **env,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # By default it calls public addresses only, by https, and remembers for a minute which webhooks there are.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        # Without one of its own it can't read the webhooks' secrets any more after a restart.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": site.secret("mlflow-webhook-key"),
    }
    return Service(
        programs=[Program("mlflow", argv, mlflow_env)],
        probe=lambda: answers(f"{site.url('mlflow')}/health"),
        ports=["mlflow"],
        after=["postgres"] if "MLFLOW_BACKEND_STORE_URI" in env else [],
    )


def _airflow(site: Site, env: Mapping[str, str]) -> Service:
    home = site.state_dir / "airflow"
    home.mkdir(exist_ok=True)
    (home / "passwords.json").write_text(json.dumps(dict([site.airflow_login])))
    (home / "config").mkdir(exist_ok=True)
    shutil.copy(site.repo / "deploy/airflow/airflow_local_settings.py", home / "config")

    def program(name: str, *args: str, one_shot: bool = False) -> Program:
        return _airflow_program(name, args, env, one_shot=one_shot)

    port = str(site.ports["airflow"])
    api = ["api-server", "--host", LOCAL, "--port", port, "--workers", "1"]
    built = datetime.now(UTC)
    return Service(
        first=program("migrate", "db", "migrate", one_shot=True),
        programs=[
            program("api-server", *api),
            program("dag-processor", "dag-processor"),
            # Its log server would listen on all interfaces; the API server reads the files itself.
            program("scheduler", "scheduler", "--skip-serve-logs"),
        ],
        # A task that finds no API server within ten seconds has failed: what is scheduled at once would be red.
        held={"airflow-scheduler": lambda: answers(f"{site.url('airflow')}/execution/health")},
        probe=lambda: airflow_runs(site.url("airflow"), site.airflow_login, site.dag_ids, built),
        ports=["airflow"],
        after=["postgres", "redis"],
    )


def _airflow_program(
    name: str, args: Sequence[str], env: Mapping[str, str], *, one_shot: bool = False
) -> Program:
    argv = [sys.executable, "-m", "airflow", *args]
    return Program(f"airflow-{name}", argv, env, one_shot=one_shot)


def _triggerer(site: Site, env: Mapping[str, str]) -> Service:
    wait = ["db", "check-migrations", "--migration-wait-timeout", "120"]
    return Service(
        # The other components make the database, maybe at this moment.
        first=_airflow_program("migrated", wait, env, one_shot=True),
        programs=[_airflow_program("triggerer", ["triggerer", "--skip-serve-logs"], env)],
        probe=lambda: airflow_component_runs(site.url("airflow"), "triggerer"),
        ports=[],
        after=["postgres"],
    )


def _gateway(site: Site, env: Mapping[str, str]) -> Service:
    gateway_env = {
        "GATEWAY_TRITON_URLS": urlsplit(site.url("triton")).netloc,
        **env,
        "GATEWAY_HOST": LOCAL,
        "GATEWAY_PORT": str(site.ports["gateway"]),
    }
    argv = [sys.executable, "-m", "ml_code.gateway.cli"]
    return Service(
        programs=[Program("gateway", argv, gateway_env)],
        # Ready comes with the first release.
        probe=lambda: answers(f"{site.url('gateway')}/health/live"),
        ports=["gateway"],
    )


def _events(site: Site, env: Mapping[str, str]) -> Service:
    username, password = site.airflow_login
    events_env = {
        **env,
        "TRITON_EVENTS_HOST": LOCAL,
        "TRITON_EVENTS_PORT": str(site.ports["events"]),
        "TRITON_EVENTS_URL": site.url("events"),
        "TRITON_EVENTS_SECRET": site.secret("events"),
        "TRITON_EVENTS_AIRFLOW_URL": site.url("airflow"),
        "TRITON_EVENTS_AIRFLOW_USERNAME": username,
        "TRITON_EVENTS_AIRFLOW_PASSWORD": password,
    }
    argv = [sys.executable, "-m", "ml_code.alias_events.cli", "serve"]
    return Service(
        programs=[Program("events", argv, events_env)],
        # Ready when MLflow has called it and Airflow has the DAG.
        probe=lambda: answers(f"{site.url('events')}/health/ready"),
        ports=["events"],
    )


def _prometheus(site: Site, env: Mapping[str, str]) -> Service:
    program = installed_prometheus()
    if program is None:
        raise StackError("no prometheus on PATH: install it (Debian: apt-get install prometheus)")
    shipped, home = site.repo / "deploy/prometheus", site.state_dir / "prometheus"
    shutil.rmtree(home / "rules", ignore_errors=True)
    shutil.copytree(shipped / "rules", home / "rules")
    shutil.copy2(shipped / "prometheus.yml", home)
    (home / "targets").mkdir(exist_ok=True)
    # The gateway and its Triton are there wherever Prometheus is.
    scraped = {"triton": "triton-metrics", "gateway": "gateway"}
    if env.get("TRITON_DEPLOY_STAGING_GRPC_URL") == site.url(f"{STAGING}-grpc"):
        scraped[STAGING] = f"{STAGING}-metrics"
    for path in (shipped / "targets").iterdir():
        targets = [urlsplit(site.url(scraped[path.stem])).netloc] if path.stem in scraped else []
        # JSON is YAML.
        (home / "targets" / path.name).write_text(json.dumps([{"targets": targets}]))
    options = {
        "--config.file": str(home / "prometheus.yml"),
        "--storage.tsdb.path": str(home / "data"),
        "--web.listen-address": urlsplit(site.url("prometheus")).netloc,
    }
    argv = [program, *(f"{key}={value}" for key, value in options.items())]
    return Service(
        programs=[Program("prometheus", argv, env)],
        probe=lambda: answers(f"{site.url('prometheus')}/-/ready"),
        ports=["prometheus"],
    )


def installed_prometheus() -> str | None:
    """Return where the program is, or None where it is not installed."""
    return shutil.which("prometheus")


_BUILDERS: Mapping[str, Callable[[Site, Mapping[str, str]], Service]] = {
    "s3": _s3,
    "postgres": postgres.service,
    "mlflow": _mlflow,
    "triton": triton_servers.serving,
    STAGING: triton_servers.staging,
    "airflow": _airflow,
    "triggerer": _triggerer,
    "gateway": _gateway,
    "events": _events,
    "prometheus": _prometheus,
    "redis": distributed_services.redis,
    "worker": distributed_services.worker,
}


def _flat(options: Mapping[str, str]) -> list[str]:
    return [part for option in options.items() for part in option]
