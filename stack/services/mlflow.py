"""MLflow's tracking server and registry, with its artifacts on S3."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ..readiness import answers
from ..site import LOCAL, Service, Site
from ..supervision import Program
from .s3 import BUCKET


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which clients use MLflow."""
    return {
        "MLFLOW_TRACKING_URI": site.url("mlflow"),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return MLflow, on SQLite unless the environment names another database."""
    home = site.state_dir / "mlflow"
    home.mkdir(exist_ok=True)
    argv = [
        *(sys.executable, "-m", "mlflow", "server", "--serve-artifacts"),
        *("--artifacts-destination", f"s3://{BUCKET}/artifacts"),
        *("--host", LOCAL, "--port", str(site.ports["mlflow"]), "--workers", "1"),
    ]
    mlflow_env = {
        # In the environment, because ``ps`` shows arguments to every user: the address of a database has a
        # password in it.
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home / 'mlflow.db'}",
        **env,
        # Background jobs would be eight more processes, which nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # By default MLflow calls public addresses only, by https, and caches the list of webhooks for a
        # minute.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        # Without a key of ours MLflow makes one at each start, and can't read the webhooks' secrets after a
        # restart.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": site.secret("mlflow-webhook-key"),
    }
    return Service(
        programs=[Program("mlflow", argv, mlflow_env)],
        probe=lambda: answers(f"{site.url('mlflow')}/health"),
        ports=["mlflow"],
        after=["postgres"] if "MLFLOW_BACKEND_STORE_URI" in env else [],
    )
