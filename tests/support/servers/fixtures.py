"""Real servers for the tests: started when a test of a worker first asks for them, one stack for all of its tests."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import Stack
from stack.servers import DEPLOY_DAG
from stack.services import SERVICES
from stack.services.tritons import STAGING
from tests.support.airflow.dag_copies import COPIES, RETRAIN_COPIES, RETRAIN_DAG, dags_with_copies
from tests.support.airflow.settings import RECONCILE_DAG, SETTINGS
from tests.support.servers.airflow_browser import chromium
from tests.support.servers.gateways import gateway, own_gateway, releases
from tests.support.servers.tritons import TritonServer

__all__ = ["chromium", "gateway", "own_gateway", "releases"]

# Its thread would change this process's environment while another reads it.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# Commits do not wait for clients, except in the tests of that wait.
os.environ["TRITON_DEPLOY_SETTLE_S"] = "0"


@pytest.fixture(scope="session")
def _described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    stack = Stack(
        home,
        # The tests of a staging Triton start one of their own.
        [name for name in SERVICES if name != STAGING],
        dags=dags_with_copies(home / "dags"),
        dag_ids=[DEPLOY_DAG, RECONCILE_DAG, RETRAIN_DAG, *COPIES, *RETRAIN_COPIES],
        environment=SETTINGS,
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
