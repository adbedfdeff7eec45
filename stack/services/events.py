"""The receiver of MLflow's webhooks: an alias that moves in MLflow becomes a deploy in Airflow."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ..readiness import answers
from ..site import LOCAL, Service, Site
from ..supervision import Program


def environment(site: Site) -> dict[str, str]:
    """Return the variable by which clients find the receiver."""
    return {"STACK_EVENTS_URL": site.url("events")}


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return the receiver."""
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
        # The receiver is ready once MLflow has called it and Airflow has the DAG.
        probe=lambda: answers(f"{site.url('events')}/health/ready"),
        ports=["events"],
    )
