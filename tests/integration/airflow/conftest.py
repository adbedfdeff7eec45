"""A running Airflow for the tests of this room, a model for one test, and Airflow's command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack import Stack
from stack.airflow_api import AirflowApi
from tests.support.airflow.models import airflow, live, model
from tests.support.airflow.settings import RECONCILE_DAG

__all__ = ["airflow", "live", "model"]


@pytest.fixture(scope="package")
def stack_with_airflow(stack: Stack) -> Iterator[Stack]:
    """S3, MLflow, Triton and Airflow run; Airflow has parsed `dags/`. It is stopped after this room: idle, it takes a quarter of a core."""
    stack.start(["postgres", "airflow"])
    # Reconcile would repair, at any moment, the damage that a test does on purpose.
    AirflowApi(stack.url("airflow"), stack.airflow_login).pause(RECONCILE_DAG)
    yield stack
    for name in stack.states():
        if name.startswith("airflow") or name == "events":
            stack.stop_process(name)
    stack.stop_process("postgres")


@pytest.fixture(scope="package")
def stack_with_events(stack_with_airflow: Stack) -> Stack:
    """As before, and what is set to the alias ``BY_EVENT`` in MLflow is deployed."""
    stack_with_airflow.start(["triggerer", "events"])
    return stack_with_airflow
