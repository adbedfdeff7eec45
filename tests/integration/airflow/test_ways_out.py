"""Every way out that Airflow has, on a running one, and what it means for a deploy: the table of docs/airflow.md.

Each test is marked with the id of a row, and holds the row to what happened.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.version_files import SMOKE_CASE
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from stack import Stack
from stack.servers import DEPLOY_DAG
from tests.support.airflow.dag_copies import NO_RETRIES, QUICK_RETRIES, RUN_TIMEOUT
from tests.support.airflow.models import (
    ALL_WENT_WELL,
    TASKS,
    Model,
    failed_at,
    hanging_load,
    stopped,
    stopped_at,
)
from tests.support.airflow.runs import AirflowServer, Run
from tests.support.documents import WayOut, ways_out
from tests.support.models import files, golden, times
from tests.support.servers.blocked_storage import blocked
from tests.support.servers.clients import Client
from tests.support.waiting import await_value

pytestmark = pytest.mark.integration

LEASE_RUN_OUT = timedelta(hours=1)
ENDS = {State.COMMITTED: "committed", State.ROLLED_BACK: "rolled back"}

Servers = Callable[[str], AirflowServer]


@pytest.fixture
def airflow_of(stack_with_airflow: Stack) -> Servers:
    """Gives the REST API for the runs of a DAG."""
    return lambda dag_id: AirflowServer(stack_with_airflow, dag_id)


@pytest.fixture
def documented(request: pytest.FixtureRequest) -> WayOut:
    """What docs/airflow.md says of the way out that the test is marked with."""
    mark = request.node.get_closest_marker("way_out")
    assert mark is not None
    return ways_out()[mark.args[0]]


# How a task is held where a test wants it


@contextmanager
def held_in(model: Model, step: str) -> Iterator[None]:
    """Wait until the deploy d2 of version 2 is in the middle of a step, and hold it there for the length of the block."""
    files_that_a_step_opens = {
        # The last record: how many there are depends on how often the load was tried.
        "ready": (State.LOADED, "deployments/d2/*.json"),
        "smoke": (State.READY, f"2/{SMOKE_CASE}"),
        # After the flip: clients reach the candidate.
        "commit": (State.VERIFIED, f"2/{SMOKE_CASE}"),
    }
    if step == "materialize":
        hold = in_the_transfer(model)
    elif step == "load":
        hold = hanging_load(model)
    else:
        hold = opening(model, *files_that_a_step_opens[step])
    with hold:
        yield


@contextmanager
def in_the_transfer(model: Model) -> Iterator[None]:
    with stopped_at(model, State.PINNED):
        model.stack.kill("s3", signal.SIGSTOP)
    try:
        await_value(lambda: (model.path / ".staging-d2").exists() or None, "the transfer", limit_s=60)
        yield
    finally:
        model.stack.kill("s3", signal.SIGCONT)


@contextmanager
def opening(model: Model, state: State, path: str) -> Iterator[None]:
    with ExitStack() as held:
        with stopped_at(model, state):
            somebody_waits = held.enter_context(blocked(max(model.path.glob(path))))
        await_value(lambda: somebody_waits() or None, f"somebody who opens {path}", limit_s=40)
        yield


# What has to be true in the end


def reconcile(model: Model, after: timedelta = timedelta(0)) -> Reconciled:
    """Reconcile the model, as if some time had passed."""
    return Reconciler(model.settings, clock=lambda: datetime.now(UTC) + after).run(model.name)


def assert_as_documented(way: WayOut, model: Model, airflow: AirflowServer, run: Run) -> None:
    """Hold a row of the document to what happened; reconcile brings to an end what the run did not."""
    finished = model.folder.journal.get("d2").finished
    if not finished:
        assert reconcile(model).under_way == "d2", "its lease is in force"
    found = reconcile(model, after=LEASE_RUN_OUT)
    assert found.problems == ()
    if finished:
        # After a commit that was killed, its flip may still be on its way: what it points at stays loaded until now.
        assert all(re.search(r"remove the engine of version 2|unload \S+\.v2 ", line) for line in found.done)
    else:
        assert found.done[0] == "settle the abandoned deployment d2"
    seen = replace(
        way,
        rollback="yes" if airflow.was_run(run.run_id, "rollback_minimal") else "no",
        run=run.state,
        deploy=ENDS[model.folder.journal.get("d2").state],
        by="the run" if finished else "reconcile",
    )
    assert seen == way


def assert_consistent(model: Model, client: Client, serving: int) -> None:
    """Files, Triton and clients agree, nobody saw a failure, and the next deploy works."""
    found = reconcile(model)
    assert (found.live, found.done, found.problems, found.under_way) == (serving, (), (), "")
    assert [record.deploy_id for record in model.folder.journal.all() if not record.finished] == []
    assert json.loads(model.current or b"")["active_version"] == serving
    assert model.ready_versions(model.name) == {serving}
    assert client.seen().answers[-1] == (serving, float(serving))
    following = model.register()
    model.deploy()
    seen = client.seen()
    assert seen.failures == ()
    assert seen.answers[-1] == (following, float(following))


# A process ends without a word


@pytest.mark.way_out("task-killed")
def test_the_process_of_a_task_is_killed(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    """One run, in which the process of each task is killed once in the middle of its work."""
    airflow = airflow_of(QUICK_RETRIES)
    live.register(alias="not-yet")
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, alias="B", deploy_id="d2")
        airflow.process(run_id, TASKS["snapshot"]).kill()
        live.point_alias("B", 2)
        for step in [*TASKS][1:]:
            with held_in(live, step):
                airflow.process(run_id, TASKS[step]).kill()
        run = airflow.ended(run_id)
        assert run.tasks == ALL_WENT_WELL
        assert [airflow.tries(run_id, task) for task in TASKS.values()] == [2] * len(TASKS)
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=2)


IN_SOAK = [pytest.param(step, marks=pytest.mark.soak) for step in ("materialize", "load", "ready", "smoke")]


@pytest.mark.way_out("task-killed-last-try")
@pytest.mark.parametrize("step", [*IN_SOAK, "commit"])
def test_the_process_of_a_task_is_killed_at_its_last_try(
    live: Model, airflow_of: Servers, documented: WayOut, step: str
) -> None:
    """And the process of the rollback, once."""
    airflow = airflow_of(NO_RETRIES)
    before = live.current
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with held_in(live, step):
            airflow.process(run_id, TASKS[step]).kill()
        # Which the rollback reads first.
        record = max((live.path / "deployments/d2").glob("*.json"))
        with blocked(record) as somebody_waits:
            await_value(lambda: somebody_waits() or None, "the rollback", limit_s=40)
            airflow.process(run_id, "rollback_minimal").kill()
        run = airflow.ended(run_id)
        assert run.tasks == failed_at(step)
        assert airflow.tries(run_id, "rollback_minimal") == 2
        assert live.current == before
        failure = live.folder.journal.get("d2").failure
        assert failure is not None
        assert (failure.step, failure.kind) == (step, "crashed")
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


@pytest.mark.way_out("supervisor-killed")
@pytest.mark.parametrize(
    "step", [*(pytest.param(step, marks=pytest.mark.soak) for step in ("materialize", "ready")), "smoke"]
)
def test_the_supervisor_of_a_task_is_killed(
    live: Model, airflow_of: Servers, documented: WayOut, step: str
) -> None:
    """Its task goes on alone: the worker's machine has lost its network, say. It wakes up when all is over."""
    airflow = airflow_of(NO_RETRIES)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with ExitStack() as asleep:
            with held_in(live, step):
                orphan = airflow.process(run_id, TASKS[step])
                asleep.enter_context(stopped(orphan))
            orphan.parent().kill()
            run = airflow.ended(run_id)
            assert run.tasks == failed_at(step)
            assert live.state("d2") is State.ROLLED_BACK
        await_value(lambda: not orphan.is_running() or None, "the end of the orphan", limit_s=60)
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


# Time limits


@pytest.mark.way_out("execution-timeout")
def test_a_task_exceeds_its_execution_timeout(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    airflow = airflow_of(NO_RETRIES)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            await_value(lambda: live.state("d2") is State.ROLLING_BACK or None, "the rollback", limit_s=60)
        run = airflow.ended(run_id)
        assert run.tasks == failed_at("load")
        (failure,) = live.quarantined.values()
        assert failure["step"] == "load"
        assert failure["error"].startswith("AirflowTaskTimeout")
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


@pytest.mark.way_out("dagrun-timeout")
def test_a_dagrun_timeout_that_somebody_added(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    airflow = airflow_of(RUN_TIMEOUT)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            process = airflow.process(run_id, "triton_load")
            run = airflow.ended(run_id)
        await_value(lambda: not process.is_running() or None, "the end of the task's process")
        assert run.tasks["rollback_minimal"] == "skipped"
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


# Buttons


@pytest.mark.way_out("run-marked-failed")
def test_the_run_is_marked_failed(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    mark_the_run(live, airflow_of(DEPLOY_DAG), documented, "failed")


@pytest.mark.way_out("run-marked-success")
def test_the_run_is_marked_success(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    mark_the_run(live, airflow_of(DEPLOY_DAG), documented, "success")


def mark_the_run(live: Model, airflow: AirflowServer, documented: WayOut, state: str) -> None:
    """While clients reach a candidate that is not committed."""
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with held_in(live, "commit"):
            process = airflow.process(run_id, "commit_current")
            airflow.mark_run(run_id, state)
            await_value(lambda: not process.is_running() or None, "the end of the task's process")
        run = airflow.ended(run_id)
        if run.state != state:
            # A scheduler that looked at the run while it was being marked has had the last word: seen once in many runs.
            airflow.mark_run(run_id, state)
            run = airflow.ended(run_id)
        assert live.ready_versions(live.name) == {2}, "nobody put it back yet"
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


@pytest.mark.way_out("task-marked-success")
def test_a_running_task_is_marked_success(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    """Airflow goes on to the next task; the record does not."""
    airflow = airflow_of(NO_RETRIES)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            airflow.mark(run_id, "triton_load", "success")
            await_value(lambda: live.state("d2") is State.ROLLING_BACK or None, "the rollback")
        run = airflow.ended(run_id)
        assert run.tasks == failed_at("ready")
        assert "load is due, not ready" in airflow.log(run_id, "triton_ready")
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


@pytest.mark.way_out("task-cleared")
def test_a_running_task_is_cleared(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    airflow = airflow_of(DEPLOY_DAG)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            process = airflow.process(run_id, "triton_load")
            airflow.clear(run_id, "triton_load")
            await_value(lambda: not process.is_running() or None, "the end of the first try")
        run = airflow.ended(run_id)
        assert run.tasks == ALL_WENT_WELL
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=2)


@pytest.mark.way_out("failed-tasks-cleared")
def test_failed_tasks_are_cleared_after_a_rollback(
    live: Model, airflow_of: Servers, documented: WayOut
) -> None:
    """A rollback that ran does not run again; what it ended is not taken up."""
    airflow = airflow_of(DEPLOY_DAG)
    live.register(files(times(2), triton__golden_json=golden(7)))
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        airflow.ended(run_id)
        record = live.folder.journal.get("d2")
        airflow.clear(run_id, only_failed=True)
        await_value(lambda: airflow.tries(run_id, "triton_infer_smoke") == 2 or None, "the second try")
        run = airflow.ended(run_id)
        assert run.tasks == failed_at("smoke")
        assert airflow.tries(run_id, "rollback_minimal") == 1
        log = airflow.log(run_id, "triton_infer_smoke", 2)
        assert "A deployment that was rolled back is not taken up again" in log
        assert live.folder.journal.get("d2") == record
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


@pytest.mark.way_out("dag-paused")
def test_the_dag_is_paused_in_mid_run(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    """For longer than the lease; whoever goes on with it then is told."""
    airflow = airflow_of(QUICK_RETRIES)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with ExitStack() as paused:
            with hanging_load(live):
                airflow.pause()
                paused.callback(airflow.pause, False)
            await_value(lambda: airflow.run(run_id).tasks["triton_load"] == "success" or None, "the load")
            assert live.state("d2") is State.LOADED
            assert_as_documented(documented, live, airflow, airflow.run(run_id))
        run = airflow.ended(run_id)
        assert (run.state, run.tasks) == ("failed", failed_at("ready"))
        assert "was rolled back: ready: " in airflow.log(run_id, "triton_ready")
        assert_consistent(live, client, serving=1)


# Airflow itself


@pytest.mark.way_out("scheduler-killed")
def test_the_scheduler_is_killed(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    airflow = airflow_of(DEPLOY_DAG)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with hanging_load(live):
            scheduler = psutil.Process(live.stack.pid("airflow-scheduler"))
            workers = scheduler.children(recursive=True)
            assert workers, "one of them loads"
            live.stack.kill("airflow-scheduler")
            # They would hold its connections to the database open, and with them its locks.
            _, left = psutil.wait_procs(workers, timeout=30)
            assert left == []
        run = airflow.ended(run_id, limit_s=180)
        assert run.tasks == ALL_WENT_WELL
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=2)


@pytest.mark.way_out("api-server-away")
def test_the_api_server_is_away(live: Model, airflow_of: Servers, documented: WayOut) -> None:
    """For longer than the heartbeat: the supervisor ends its task, and can tell nobody."""
    airflow = airflow_of(NO_RETRIES)
    live.register()
    with live.client() as client:
        run_id = airflow.deploy(model=live.name, deploy_id="d2")
        with ExitStack() as away, held_in(live, "smoke"):
            process = airflow.process(run_id, "triton_infer_smoke")
            away.callback(live.stack.start_process, "airflow-api-server")
            live.stack.stop_process("airflow-api-server")
            await_value(lambda: not process.is_running() or None, "the end of the task's process", 40)
        run = airflow.ended(run_id, limit_s=180)
        assert_as_documented(documented, live, airflow, run)
        assert_consistent(live, client, serving=1)


# The way back


@pytest.mark.soak
def test_the_process_of_revert_triton_is_killed(live: Model, airflow_of: Servers) -> None:
    """The next try undoes the first, waits for no lease, and goes back to the version that was asked for."""
    for _ in range(2):
        live.register()
        live.deploy()
    airflow = airflow_of("revert_triton")
    with live.client() as client:
        with blocked(live.path / "1/model.onnx") as somebody_waits:
            run_id = airflow.deploy(model=live.name, to=1)
            await_value(lambda: somebody_waits() or None, "the load", limit_s=40)
            airflow.process(run_id, "revert").kill()
        run = airflow.ended(run_id)
        assert run.tasks == {"revert": "success"}
        assert airflow.tries(run_id, "revert") == 2
        assert [release.active_version for release in live.folder.releases.history()] == [1, 3, 2, 1]
        assert_consistent(live, client, serving=1)
