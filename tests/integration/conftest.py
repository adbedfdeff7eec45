"""Real servers for the tests: started when the first test asks for them, one stack for all tests."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import Stack
from stack.airflow_api import AirflowApi
from stack.ports import free_ports
from stack.servers import DEPLOY_DAG
from tests.integration.browsing import chromium
from tests.integration.gateways import gateway, own_gateway, releases

__all__ = ["chromium", "gateway", "own_gateway", "releases"]

from .dag_copies import COPIES, RETRAIN_COPIES, RETRAIN_DAG, dags_with_copies

# Its thread would change this process's environment while another reads it.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

RECONCILE_DAG = "reconcile_triton"
SOON_MISSED = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}
"""Airflow notices after 30 s, not 300, that nobody looks after a task any more."""
WATCHED_MODEL, BY_EVENT = "watched_model", "by_event"
FOLLOWED = {"TRITON_EVENTS_ALLOW": f"*@{BY_EVENT}", "TRITON_EVENTS_WATCH": f"{WATCHED_MODEL}@{BY_EVENT}"}
"""Nothing else that a test moves is deployed by itself."""
PROMETHEUS_PORT = free_ports()["gateway"]
"""Where a test may start a Prometheus that Airflow's tasks ask."""
BAKES_ON_DEMAND = {
    "TRITON_DEPLOY_PROMETHEUS_URL": f"http://127.0.0.1:{PROMETHEUS_PORT}",
    "TRITON_DEPLOY_BAKE_MINUTES": "0",
    "TRITON_DEPLOY_BAKE_INTERVAL_S": "1",
    "TRITON_DEPLOY_BAKE_WINDOW_S": "10",
    "TRITON_DEPLOY_BAKE_MIN_REQUESTS": "40",
}
"""A release bakes when the run's form says so, and then quickly."""


@pytest.fixture(scope="session")
def _described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    stack = Stack(
        home,
        dags=dags_with_copies(home / "dags"),
        dag_ids=[DEPLOY_DAG, RECONCILE_DAG, RETRAIN_DAG, *COPIES, *RETRAIN_COPIES],
        environment={
            **SOON_MISSED,
            **FOLLOWED,
            **BAKES_ON_DEMAND,
            # What retrains by itself would do so at midnight.
            "RETRAIN_SCHEDULE": "off",
            "TRAINERS_PATH": str(Path(__file__).with_name("trainers")),
        },
    )
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def mlflow_stack(_described: Stack) -> Stack:
    """S3 and MLflow run."""
    _described.start(["s3", "mlflow"])
    return _described


@pytest.fixture(scope="session")
def stack(mlflow_stack: Stack) -> Stack:
    """S3, MLflow and Triton run."""
    mlflow_stack.start(["triton"])
    return mlflow_stack


@pytest.fixture(scope="session")
def stack_with_airflow(stack: Stack) -> Stack:
    """Everything runs; Airflow has parsed `dags/`."""
    stack.start(["postgres", "airflow"])
    # It would put right, at a moment of its own, what tests break on purpose.
    AirflowApi(stack.url("airflow"), stack.airflow_login).pause(RECONCILE_DAG)
    return stack


@pytest.fixture(scope="session")
def stack_with_events(stack_with_airflow: Stack) -> Stack:
    """As before, and what is set to the alias ``BY_EVENT`` in MLflow is deployed."""
    stack_with_airflow.start(["triggerer", "events"])
    return stack_with_airflow


class TritonServer:
    """A Triton of its own on one model repository."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.http_url = stack.url("triton").removeprefix("http://")
        self.grpc_url = stack.url("triton-grpc")
        self.metrics_url = f"{stack.url('triton-metrics')}/metrics"
        self.log_path = stack.log_path("triton")

    @property
    def pid(self) -> int:
        """0 when it is stopped."""
        return self.stack.pid("triton")

    def stop(self) -> None:
        self.stack.stop_process("triton")

    def restart(self) -> None:
        """Returns when it is ready again; starts it when it was stopped."""
        self.stack.restart("triton")


@pytest.fixture
def triton_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., TritonServer]]:
    """`triton_server(repository, *extra_args)` starts a Triton; returns when its models are loaded."""
    with ExitStack() as running:

        def start(repository: Path, *extra_args: str) -> TritonServer:
            state_dir = tmp_path_factory.mktemp("triton")
            stack = Stack(state_dir, ["triton"], model_repository=repository, triton_args=extra_args)
            return TritonServer(running.enter_context(stack))

        yield start
