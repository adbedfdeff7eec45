"""The bake in a running Airflow: it waits in the triggerer, and a bad release makes a failed run and is not live any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.rules.bake_record import BakeVerdict
from ml_code.triton_deploy.rules.release import BAKED_BADLY
from stack import Stack
from tests.support.airflow.models import ALL_WENT_WELL, Model, deployed
from tests.support.airflow.runs import AirflowCommand, AirflowServer
from tests.support.airflow.settings import PROMETHEUS_PORT
from tests.support.models import fails_above, files, golden
from tests.support.servers.prometheus_server import Prometheus
from tests.support.servers.v2_clients import asking
from tests.support.waiting import await_value

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

MINUTES = 5
"""Longer than a test waits: what ends before that was ended by what was seen."""


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[None]:
    """The Prometheus that the tasks of every DAG know."""
    targets = {"triton": [stack.url("triton-metrics").removeprefix("http://")]}
    with Prometheus(tmp_path / "prometheus", targets, port=PROMETHEUS_PORT):
        yield


@pytest.fixture
def server(stack_with_airflow: Stack, prometheus: None) -> AirflowServer:
    """A running Airflow with a triggerer."""
    stack_with_airflow.start(["triggerer"])
    return AirflowServer(stack_with_airflow)


@pytest.fixture
def model(stack: Stack) -> Model:
    """Version 1 is live, without a bake."""
    return deployed(stack)


def await_deferred(server: AirflowServer, run_id: str) -> None:
    await_value(
        lambda: server.run(run_id).tasks.get("bake_release") == "deferred" or None, "the bake to wait", 180
    )


def bad() -> dict[str, bytes]:
    """Version 2, which fails one request of twenty."""
    return files(fails_above(10, 2), triton__golden_json=golden(2))


@pytest.mark.soak
def test_without_a_running_airflow_the_bake_waits_in_the_command(
    airflow: AirflowCommand, prometheus: None, model: Model, stack: Stack
) -> None:
    model.register(bad())
    with asking(model.name, stack.url("triton").removeprefix("http://")):
        ended, run = airflow.deploy(model=model.name, bake_minutes=MINUTES)
    assert (ended.code, run.state) == (1, "failed"), ended.output
    assert run.tasks == ALL_WENT_WELL | {"bake_release": "failed", "deployed": "upstream_failed"}
    live = model.folder.releases.latest()
    assert live is not None
    assert (live.generation, live.active_version) == (3, 1)
    assert live.reason.startswith(BAKED_BADLY)


def test_a_release_that_fails_its_bake_is_reverted_and_its_run_failed(
    server: AirflowServer, model: Model, stack_with_airflow: Stack
) -> None:
    model.register(bad())
    with asking(model.name, stack_with_airflow.url("triton").removeprefix("http://")) as clients:
        run_id = server.deploy(model=model.name, bake_minutes=MINUTES)
        await_deferred(server, run_id)
        # It holds no worker's slot; the triggerer's process may die meanwhile.
        stack_with_airflow.kill("airflow-triggerer")
        run = server.ended(run_id, 240)
        clients.ask_more(40)
        assert clients.answers[1]
    assert run.state == "failed"
    assert run.tasks == ALL_WENT_WELL | {"bake_release": "failed", "deployed": "upstream_failed"}
    live = model.folder.releases.latest()
    assert live is not None
    assert (live.generation, live.active_version) == (3, 1)
    assert live.reason.startswith(BAKED_BADLY)
    assert live.actor == f"airflow:{run_id}"
    bake = model.folder.bakes.find(2)
    assert bake is not None
    assert bake.verdict is BakeVerdict.FAILED
    assert model.quarantined == {}


@pytest.mark.soak
def test_a_person_who_reverts_during_the_bake_is_not_overruled(
    server: AirflowServer, model: Model, stack_with_airflow: Stack
) -> None:
    model.register()
    run_id = server.deploy(model=model.name, bake_minutes=MINUTES)
    await_deferred(server, run_id)
    Deployer(model.settings).revert(RevertRequest(model=model.name, deploy_id="person"))
    run = server.ended(run_id, 120)
    assert (run.state, run.tasks) == ("success", ALL_WENT_WELL)
    bake = model.folder.bakes.find(2)
    assert bake is not None
    assert bake.verdict is BakeVerdict.SUPERSEDED
    live = model.folder.releases.latest()
    assert live is not None
    assert (live.generation, live.active_version) == (3, 1)
