"""Runs of the deploy DAG on a running Airflow, asked by REST as its UI does."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress

import psutil
import pytest

from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.names import engine_name
from stack import Stack
from stack.servers import DEPLOY_DAG
from tests.support.airflow.models import (
    ALL_WENT_WELL,
    REFUSED,
    Model,
    failed_at,
    hanging_load,
    stopped,
)
from tests.support.airflow.runs import AirflowServer
from tests.support.models import files, golden, times
from tests.support.waiting import await_value

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(stack_with_airflow: Stack) -> AirflowServer:
    return AirflowServer(stack_with_airflow)


def test_two_triggered_runs_queue_one_after_the_other(model: Model, server: AirflowServer) -> None:
    model.register(alias="A")
    model.register(alias="B")
    first = server.deploy(model=model.name, alias="A")
    second = server.deploy(model=model.name, alias="B")
    for run_id in (first, second):
        run = server.ended(run_id)
        assert (run.state, run.tasks) == ("success", ALL_WENT_WELL)
    assert server.times(first)[1] <= server.times(second)[0]
    assert [release.active_version for release in model.folder.releases.history()] == [2, 1]
    assert [release.actor for release in model.folder.releases.history()] == [
        f"airflow:{second}",
        f"airflow:{first}",
    ]
    assert model.ready_versions(model.name) == {2}


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"alias": "has a space"}, "'has a space' does not match"),
        ({"alias": "latest"}, "'latest' does not match"),
        ({"model": "../x"}, "'../x' does not match"),
        ({"model": 5}, "5 is not of type 'string'"),
        ({"force": "yes"}, "'yes' is not of type 'boolean'"),
        ({"deploy_id": "../x"}, "'../x' does not match"),
        ({"alias": "A\n"}, "should not be valid"),
    ],
)
def test_bad_params_are_refused_before_anything_runs(
    server: AirflowServer, conf: dict[str, object], message: str
) -> None:
    answer = server.trigger(conf)
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


def test_a_key_that_is_no_param_fails_the_run_before_anything_is_done(
    live: Model, server: AirflowServer
) -> None:
    before, begun = live.current, list(live.folder.journal.all())
    live.register()
    run_id = server.deploy(model=live.name, version="1")
    run = server.ended(run_id)
    assert (run.state, run.tasks) == ("failed", REFUSED)
    assert f"{DEPLOY_DAG} has no param 'version': nothing was done." in server.log(run_id, "snapshot_current")
    assert server.tries(run_id, "snapshot_current") == 1
    assert live.current == before
    assert list(live.folder.journal.all()) == begun


@pytest.mark.way_out("step-fails")
def test_a_step_fails_and_the_run_is_red_although_the_rollback_succeeded(
    live: Model, server: AirflowServer
) -> None:
    before = live.current
    live.register(files(times(2), triton__golden_json=golden(7)))
    with live.client() as client:
        run_id = server.deploy(model=live.name)
        run = server.ended(run_id)
        seen = client.seen()
    assert (run.state, run.tasks) == ("failed", failed_at("smoke"))
    assert "answers wrongly: output y is off by up to" in server.log(run_id, "triton_infer_smoke")
    assert "was rolled back, kept as 2.failed_" in server.log(run_id, "rollback_minimal")
    assert live.state(run.deploy_id) is State.ROLLED_BACK
    assert live.current == before
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0),)


@pytest.mark.soak
def test_a_run_whose_task_is_killed_every_time_is_rolled_back(live: Model, server: AirflowServer) -> None:
    before = live.current
    live.register()
    with live.client() as client:
        run_id = server.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            killed: set[int] = set()
            while len(killed) < 3:
                killed.add(kill_the_load(live, killed))
            await_value(lambda: live.state("d2") is State.ROLLING_BACK or None, "the rollback")
        run = server.ended(run_id)
        seen = client.seen()
    assert (run.state, run.tasks) == ("failed", failed_at("load"))
    assert live.current == before
    (failure,) = live.quarantined.values()
    assert (failure["step"], failure["kind"]) == ("load", "crashed")
    assert "its process was killed, timed out or marked failed" in failure["error"]
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0),)
    live.register()
    live.deploy()
    assert live.ready_versions(live.name) == {3}


def kill_the_load(model: Model, but: set[int]) -> int:
    """Kill the process that waits for Triton's load, a new one; return its id."""

    def loading() -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            process = model.at_work()
            return None if process.pid in but else process
        return None

    process = await_value(loading, "a load")
    process.kill()
    return process.pid


@pytest.mark.way_out("task-marked-failed")
def test_a_task_marked_failed_is_rolled_back_and_has_no_say_any_more(
    live: Model, server: AirflowServer
) -> None:
    before = live.current
    live.register()
    with live.client() as client:
        run_id = server.deploy(model=live.name, deploy_id="d2")
        with ExitStack() as asleep:
            with hanging_load(live):
                zombie = live.at_work()
                # Airflow's supervisor of the task, which ends it at the next heartbeat otherwise.
                asleep.enter_context(stopped(zombie.parent()))
                server.mark(run_id, "triton_load", "failed")
                await_value(lambda: live.state("d2") is State.ROLLING_BACK or None, "the rollback")
            # Now the load ends well, after the decision.
            await_value(lambda: live.state("d2") is State.ROLLED_BACK or None, "its end")
        run = server.ended(run_id)
        await_value(lambda: not zombie.is_running() or None, "the end of the task's process")
        seen = client.seen()
    assert (run.state, run.tasks) == ("failed", failed_at("load"))
    log = server.log(run_id, "triton_load")
    told = rf"d2 (of {live.name} was moved to (rolling|rolled)_back by somebody else|lost its lease of {live.name})"
    assert re.search(told, log)
    record = live.folder.journal.get("d2")
    assert record.state is State.ROLLED_BACK
    assert State.LOADED not in record.times_utc
    assert live.ready_versions(engine_name(live.name, 2)) == set()
    assert live.current == before
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0),)
    live.register()
    live.deploy()
    assert live.ready_versions(live.name) == {3}
