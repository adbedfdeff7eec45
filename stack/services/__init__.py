"""Every service that the stack knows: a module for each, and one table of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ..errors import StackError
from ..site import LOCAL, Service, Site
from . import (
    airflow,
    events,
    gateway,
    mlflow,
    postgres,
    prometheus,
    redis,
    s3,
    triggerer,
    tritons,
    worker,
)
from .tritons import STAGING


@dataclass(frozen=True)
class KnownService:
    """What the stack knows of a service.

    Attributes:
        service: makes the service, from the site and the environment of its processes; writes the files
            that it starts with.
        environment: the variables by which clients and the other services use it.
        by_default: the stack has this service unless the caller names others.
        needs: the services without which the stack refuses this one.
        refusal: the text of that refusal.
    """

    service: Callable[[Site, Mapping[str, str]], Service]
    environment: Callable[[Site], dict[str, str]] = lambda site: {}
    by_default: bool = True
    needs: tuple[str, ...] = ()
    refusal: str = ""


# A later service's variables win: those of ``redis`` make Airflow a distributed one.
KNOWN: Mapping[str, KnownService] = {
    "s3": KnownService(s3.service, s3.environment),
    "postgres": KnownService(postgres.service, postgres.environment),
    "mlflow": KnownService(
        mlflow.service,
        mlflow.environment,
        needs=("s3",),
        refusal="mlflow keeps its artifacts on s3: name both",
    ),
    "triton": KnownService(tritons.serving, tritons.serving_environment),
    STAGING: KnownService(tritons.staging, tritons.staging_environment),
    "airflow": KnownService(
        airflow.service,
        airflow.environment,
        needs=("postgres",),
        refusal="airflow keeps its state in postgres: name both",
    ),
    "triggerer": KnownService(
        triggerer.service, needs=("airflow",), refusal="triggerer is a part of airflow: name both"
    ),
    "gateway": KnownService(
        gateway.service, gateway.environment, needs=("triton",), refusal="gateway asks triton: name both"
    ),
    "events": KnownService(
        events.service,
        events.environment,
        needs=("mlflow", "airflow"),
        refusal="events are from mlflow to airflow: name all three",
    ),
    "prometheus": KnownService(
        prometheus.service,
        prometheus.environment,
        by_default=False,
        needs=("gateway",),
        refusal="prometheus asks gateway: name both",
    ),
    "redis": KnownService(redis.service, redis.environment, by_default=False),
    "worker": KnownService(worker.service, by_default=False),
}
SERVICES = tuple(name for name, known in KNOWN.items() if known.by_default)
"""What a stack has by default."""
WITH_PROMETHEUS = (*SERVICES, "prometheus")
"""What ``up`` starts where Prometheus is installed."""

# Variables that the caller's shell exports for another installation must not reach these servers.
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


def check_names(names: Collection[str]) -> None:
    """Check that the stack knows these services, and that none lacks another.

    Raises:
        StackError: a service is unknown or lacks another.
    """
    if unknown := set(names) - set(KNOWN):
        raise StackError(f"unknown services: {', '.join(sorted(unknown))}")
    for name, known in KNOWN.items():
        if name in names and not set(known.needs) <= set(names):
            raise StackError(known.refusal)


def client_environment(site: Site, names: Collection[str]) -> dict[str, str]:
    """Return the variables that a client of the services ``names`` needs besides its own."""
    environment = {
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), LOCAL])),
        # ONNX Runtime keeps a database of its use, on Linux too, and its library can send it.
        "ORT_DISABLE_TELEMETRY": "1",
    }
    for name, known in KNOWN.items():
        if name in names:
            environment |= known.environment(site)
    return {**environment, **site.extra}


def build(site: Site, names: Collection[str]) -> dict[str, Service]:
    """Write the files that the servers need before they start, and return the services ``names``.

    Raises:
        StackError: a server is not installed, or its files are of another version.
    """
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)},
        **client_environment(site, names),
    }
    return {name: known.service(site, env) for name, known in KNOWN.items() if name in names}
