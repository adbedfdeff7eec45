"""The gateway, in front of the Triton that serves."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..readiness import answers
from ..site import LOCAL, Service, Site
from ..supervision import Program


def environment(site: Site) -> dict[str, str]:
    """Return the variables by which clients and the deployer find the gateway."""
    return {"STACK_GATEWAY_URL": site.url("gateway"), "TRITON_DEPLOY_GATEWAY_URLS": site.url("gateway")}


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return the gateway."""
    gateway_env = {
        "GATEWAY_TRITON_URLS": urlsplit(site.url("triton")).netloc,
        # The page links there, where the stack has them.
        "GATEWAY_MLFLOW_URL": env.get("MLFLOW_TRACKING_URI", ""),
        "GATEWAY_AIRFLOW_URL": env.get("STACK_AIRFLOW_URL", ""),
        **env,
        "GATEWAY_HOST": LOCAL,
        "GATEWAY_PORT": str(site.ports["gateway"]),
    }
    argv = [sys.executable, "-m", "ml_code.gateway.cli"]
    return Service(
        programs=[Program("gateway", argv, gateway_env)],
        # Live, not ready: the gateway is ready only after the first release.
        probe=lambda: answers(f"{site.url('gateway')}/health/live"),
        ports=["gateway"],
    )
