"""The DAGs by the command line, with no Airflow running, on real MLflow, S3 and Triton: what is live changes, or nothing does."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from ml_code.triton_deploy.cli.exit_codes import ExitCode
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.rules.version_files import SMOKE_CASE
from stack import Stack
from stack.servers import DEPLOY_DAG, REPO
from tests.support.airflow.models import (
    ALL_WENT_WELL,
    REFUSED,
    TASKS,
    Model,
    deployed,
    failed_at,
    good,
    meanwhile,
    stopped_at,
)
from tests.support.airflow.runs import AirflowCommand, Ended, Run
from tests.support.models import files, golden, times, unknown_operator
from tests.support.tutorial import blocks
from tests.support.waiting import await_value

pytestmark = pytest.mark.integration


# `airflow dags test`: the whole chain, no Airflow running


HOW_TO = REPO / "docs/how-to/deploy-a-model.md"
A_HOME, THE_DAG, ITS_TASKS = (
    block.command for part in ("home", "dag", "tasks") for block in blocks(HOW_TO, f"ci: {part}")
)
"""How the documents run the DAG without a running Airflow: a home, the whole DAG, single tasks."""


def in_a_shell(stack: Stack, model: str, *blocks: str) -> subprocess.CompletedProcess[str]:
    """Run blocks of a document in a shell that knows the running Airflow of `make up`, as `source .stack/env` makes it."""
    running = dict.fromkeys(("AIRFLOW_HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"), "nowhere")
    script = "set -e\n" + "".join(blocks).replace('"best_model"', f'"{model}"').replace(
        " best_model ", f" {model} "
    )
    return subprocess.run(
        ["bash", "-c", script],
        cwd=REPO,
        env={**os.environ, **stack.environment, **running},
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_documented_commands_deploy_beside_a_running_airflow(stack: Stack, live: Model) -> None:
    live.register()
    with live.client() as client:
        done = in_a_shell(stack, live.name, A_HOME, THE_DAG)
        assert done.returncode == 0, done.stdout + done.stderr
        seen = client.seen()
    assert "Traceback" not in done.stdout + done.stderr
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0), (2, 2.0))
    current = json.loads(live.current or b"")
    assert (current["active_version"], current["previous_version"], current["alias"]) == (2, 1, "A")


@pytest.mark.soak
def test_the_documented_single_tasks_deploy_and_take_back(stack: Stack, live: Model) -> None:
    live.register()
    done = in_a_shell(stack, live.name, A_HOME, ITS_TASKS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (live.state("ci-42"), live.ready_versions(live.name)) == (State.COMMITTED, {2})

    live.register(files(b"junk"))
    done = in_a_shell(stack, live.name, A_HOME, ITS_TASKS.replace("ci-42", "ci-43"))
    assert done.returncode == 0, "the rollback did what it was asked to"
    assert (live.state("ci-43"), live.ready_versions(live.name)) == (State.ROLLED_BACK, {2})


@dataclass(frozen=True)
class Breakage:
    """How a deploy of version 2 is made to fail.

    Attributes:
        step: the step that fails.
        error: what the user reads, as a regular expression.
        artifact: version 2.
        sabotage: what somebody does during the deploy.
        reaches_clients: the candidate was verified and may answer some requests before it is taken back.
    """

    step: str
    error: str
    artifact: dict[str, bytes]
    sabotage: Callable[[Model], None] = lambda model: None
    reaches_clients: bool = False


def unload_the_candidate(at: State) -> Callable[[Model], None]:
    def act(model: Model) -> None:
        with stopped_at(model, at):
            model.triton.unload_model(engine_name(model.name, 2))
            await_value(lambda: not model.ready_versions(engine_name(model.name, 2)) or None, "the unload")

    return act


def expect_other_answers(model: Model) -> None:
    """From now on the check of the public name, after the flip, fails."""
    with stopped_at(model, State.VERIFIED):
        path = model.path / "2" / SMOKE_CASE
        case = json.loads(path.read_text())
        case["outputs"][0]["data"] = [-1.0 for _ in case["outputs"][0]["data"]]
        path.write_text(json.dumps(case))


@contextmanager
def during_the_check_after_the_flip(model: Model) -> Iterator[None]:
    """Wait until the public name points at the candidate, and keep it from answering for the length of the block."""
    with stopped_at(model, State.VERIFIED):
        candidate = model.engine_process(2)
        assert candidate is not None
        candidate.suspend()
    try:
        await_value(lambda: model.ready_versions(model.name) == {2} or None, "the flip", pause_s=0.002)
        assert model.state("d2") is State.SWITCHING
        yield
    finally:
        candidate.resume()


def release_something_else(model: Model) -> None:
    """Somebody else commits the next generation while the candidate is checked by its public name."""
    with during_the_check_after_the_flip(model):
        live = model.folder.releases.latest()
        assert live is not None
        model.folder.releases.publish(replace(live, generation=2, deploy_id="somebody-else"))


def take_the_releases_away_for_a_moment(model: Model) -> None:
    """The release can't be written: the commit fails between its decision and its end."""
    folder, aside = model.path / "releases", model.path / "aside"
    with during_the_check_after_the_flip(model):
        folder.rename(aside)
        folder.touch()
    await_value(lambda: model.folder.journal.get("d2").failure, "the failure", pause_s=0.002)
    folder.unlink()
    aside.rename(folder)


NO_GPU = json.dumps({"instance_group": [{"kind": "KIND_GPU", "count": 1}]}).encode()
BREAKAGES = {
    "junk": Breakage("materialize", r"model\.onnx is not an ONNX model.*Log the model again", files(b"junk")),
    "unknown operator": Breakage(
        "materialize",
        r"can't open the model: .*nobody\.knows.*has no custom operators",
        files(unknown_operator(), triton__golden_json=golden(2)),
    ),
    "wants a GPU": Breakage(
        "load",
        r"failed loading .*GPU",
        files(times(2), triton__golden_json=golden(2), triton__config_json=NO_GPU),
    ),
    "unloaded after load": Breakage(
        "ready",
        r"does not have version 2 of \w+ ready\. It was restarted or somebody unloaded it; deploy again",
        good(2),
        unload_the_candidate(State.LOADED),
    ),
    "wrong answers": Breakage(
        "smoke", r"answers wrongly: output y is off by up to", files(times(2), triton__golden_json=golden(7))
    ),
    "unloaded before commit": Breakage(
        "commit", r"does not have version 2 of \w+ ready", good(2), unload_the_candidate(State.VERIFIED)
    ),
    "wrong answers after the flip": Breakage(
        "commit",
        r"answers wrongly: output y is off by up to",
        good(2),
        expect_other_answers,
        reaches_clients=True,
    ),
    "another release came first": Breakage(
        "commit",
        r"Generation 2 of \w+ was committed by deployment somebody-else",
        good(2),
        release_something_else,
        reaches_clients=True,
    ),
}
# Each step fails once in `make test`; below Airflow all of them do, in test_bad_inputs.py and test_deploy_under_traffic.py.
IN_SOAK = {
    "wants a GPU",
    "unknown operator",
    "wrong answers",
    "unloaded before commit",
    "another release came first",
}


@pytest.mark.parametrize(
    "breakage",
    [
        pytest.param(breakage, id=name, marks=pytest.mark.soak if name in IN_SOAK else ())
        for name, breakage in BREAKAGES.items()
    ],
)
def test_a_failed_deploy_changes_nothing_and_the_next_one_works(
    live: Model, airflow: AirflowCommand, breakage: Breakage
) -> None:
    before = live.current
    live.register(breakage.artifact)
    with live.client() as client:
        with meanwhile(lambda: breakage.sabotage(live)):
            ended, run = airflow.deploy(model=live.name, deploy_id="d2")
        seen = client.seen()
        assert_nothing_changed(live, before, ended, run, breakage)
        assert seen.failures == ()
        assert seen.answers[-1] == (1, 1.0)
        assert set(seen.answers) <= {(1, 1.0)} | ({(2, 2.0)} if breakage.reaches_clients else set())

        live.register()
        ended, run = airflow.deploy(model=live.name, deploy_id="d3")
        assert (ended.code, run.state, run.tasks) == (0, "success", ALL_WENT_WELL), ended.output
        seen = client.seen()
    assert seen.failures == ()
    assert seen.answers[-1] == (3, 3.0)
    assert json.loads(live.current or b"")["active_version"] == 3


def assert_nothing_changed(
    live: Model, before: bytes | None, ended: Ended, run: Run, breakage: Breakage
) -> None:
    assert (ended.code, run.state) == (1, "failed"), ended.output
    assert run.tasks == failed_at(breakage.step)
    assert live.current == before
    assert live.ready_versions(live.name) == {1}
    assert live.ready_versions(engine_name(live.name, 2)) == set()
    assert live.state("d2") is State.ROLLED_BACK
    ((name, failure),) = live.quarantined.items()
    assert re.fullmatch(r"2\.failed_\d{8}T\d{6}", name)
    assert failure["step"] == breakage.step
    assert re.search(breakage.error, failure["error"], re.DOTALL)
    log = ended.output
    assert failure["error"] in log, "the user reads it in the task's log"
    assert f"Still true: version 1 of {live.name} is live" in log
    assert re.search(rf"deployment d2 was rolled back, kept as {re.escape(name)}; version 1 of", log)


def test_a_commit_that_fails_past_its_decision_is_finished_by_the_rollback(
    live: Model, airflow: AirflowCommand
) -> None:
    live.register()
    with live.client() as client:
        with meanwhile(lambda: take_the_releases_away_for_a_moment(live)):
            ended, run = airflow.deploy(model=live.name, deploy_id="d2")
        seen = client.seen()
    assert (ended.code, run.state, run.tasks) == (1, "failed", failed_at("commit")), ended.output
    assert "deployment d2 was past its decision: finishing the commit" in ended.output
    assert live.state("d2") is State.COMMITTED
    assert json.loads(live.current or b"")["active_version"] == 2
    assert live.quarantined == {}
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0), (2, 2.0))


def test_a_first_deploy_that_fails_leaves_no_model_behind(model: Model, airflow: AirflowCommand) -> None:
    model.register(files(times(1), triton__golden_json=golden(7)))
    ended, run = airflow.deploy(model=model.name, deploy_id="d1")
    assert (ended.code, run.state, run.tasks) == (1, "failed", failed_at("smoke"))
    assert model.current is None
    assert model.ready_versions(model.name) == set()
    assert [path.name for path in model.settings.repository_root.glob(f"{model.name}*")] == [model.name]
    model.register()
    assert airflow.deploy(model=model.name)[0].code == 0
    assert model.ready_versions(model.name) == {2}


def test_a_deploy_that_fails_before_it_began_has_nothing_to_roll_back(
    live: Model, airflow: AirflowCommand
) -> None:
    before = live.current
    ended, run = airflow.deploy(model=live.name, alias="nobody-set-this", deploy_id="d2")
    assert (ended.code, run.tasks) == (1, failed_at("snapshot"))
    assert "had not begun: nothing to roll back" in ended.output
    assert live.current == before
    assert live.quarantined == {}


def test_deploying_what_is_live_succeeds_and_changes_nothing(live: Model, airflow: AirflowCommand) -> None:
    before = live.current
    ended, run = airflow.deploy(model=live.name, deploy_id="d2")
    assert (ended.code, run.tasks) == (0, ALL_WENT_WELL)
    assert live.state("d2") is State.UNCHANGED
    assert live.current == before


def test_what_a_retry_can_mend_is_tried_again(live: Model, airflow: AirflowCommand) -> None:
    live.register()
    live.folder.lease.acquire("another-deploy", datetime.now(UTC), 300)

    def end_the_other_deploy() -> None:
        await_value(
            lambda: "Deployment another-deploy" in airflow.log.read_text() or None, "the refusal", 120
        )
        live.folder.lease.release("another-deploy")

    with ThreadPoolExecutor() as pool:
        other = pool.submit(end_the_other_deploy)
        ended, run = airflow.deploy(model=live.name, deploy_id="d2")
        other.result()
    assert (ended.code, run.tasks) == (0, ALL_WENT_WELL), ended.output
    assert live.ready_versions(live.name) == {2}


def test_the_command_line_refuses_bad_params(airflow: AirflowCommand) -> None:
    ended = airflow("dags", "test", DEPLOY_DAG, "-c", json.dumps({"model": "../x"}))
    assert ended.code == 1
    assert "'../x'" in ended.output
    assert "Failed validating 'pattern'" in ended.output


@pytest.mark.parametrize(
    "conf",
    [
        pytest.param({"version": "1"}, id="version"),
        pytest.param({"Alias": "staging", "deploy_id": "d1"}, id="Alias", marks=pytest.mark.soak),
    ],
)
def test_a_conf_with_a_key_that_is_no_param_deploys_nothing(
    live: Model, airflow: AirflowCommand, conf: dict[str, str]
) -> None:
    """Airflow itself takes it along without a word: the alias' version would be deployed."""
    before, begun = live.current, list(live.folder.journal.all())
    live.register()
    ended, run = airflow.deploy(model=live.name, **conf)
    assert (ended.code, run.state, run.tasks) == (1, "failed", REFUSED), ended.output
    assert f"{DEPLOY_DAG} has no param '{next(iter(conf))}': nothing was done." in ended.output
    assert live.current == before
    assert list(live.folder.journal.all()) == begun


@pytest.mark.parametrize(
    ("dag_id", "conf"),
    [
        ("revert_triton", {"version": 1}),
        pytest.param("retrain_and_deploy", {"Alias": "A"}, marks=pytest.mark.soak),
        pytest.param("reconcile_triton", {"model": "m"}, marks=pytest.mark.soak),
        pytest.param("gc_triton", {"dry-run": True}, marks=pytest.mark.soak),
    ],
)
def test_no_dag_takes_a_key_that_is_no_param(
    airflow: AirflowCommand, dag_id: str, conf: dict[str, object]
) -> None:
    ended = airflow("dags", "test", dag_id, "-c", json.dumps(conf))
    assert ended.code == 1
    assert f"{dag_id} has no param '{next(iter(conf))}': nothing was done." in ended.output
    states = set(airflow.last_run().tasks.values())
    assert "failed" in states
    assert states <= {"failed", "upstream_failed", "skipped"}


# `airflow tasks test`: one task at a time, no XCom, always exit code 0


def test_single_tasks_are_tied_together_by_the_deploy_id(live: Model, airflow: AirflowCommand) -> None:
    live.register()
    for task in TASKS.values():
        assert task_alone(airflow, live, task).code == 0
        assert live.status("d2") == (0 if task == "commit_current" else ExitCode.UNFINISHED)
    assert live.state("d2") is State.COMMITTED
    assert live.ready_versions(live.name) == {2}


def test_a_single_task_that_fails_exits_0_and_the_status_tells(live: Model, airflow: AirflowCommand) -> None:
    before = live.current
    assert live.status("d2") == 3, "not begun"
    live.register(files(b"junk"))
    task_alone(airflow, live, "snapshot_current")
    failing = task_alone(airflow, live, "materialize_repo")
    assert failing.code == 0, "Airflow's rule; when it changes, docs/how-to/deploy-a-model.md has to"
    assert "AirflowFailException" in failing.output
    assert live.status("d2") == ExitCode.UNFINISHED
    out_of_order = task_alone(airflow, live, "commit_current")
    assert "materialize is due, not commit" in out_of_order.output
    task_alone(airflow, live, "rollback_minimal")
    assert live.status("d2") == ExitCode.ROLLED_BACK
    assert live.current == before
    (failure,) = live.quarantined.values()
    assert failure["step"] == "materialize"


def task_alone(airflow: AirflowCommand, model: Model, task: str) -> Ended:
    params = json.dumps({"model": model.name, "deploy_id": "d2"})
    return airflow("tasks", "test", DEPLOY_DAG, task, "-t", params)


# The other DAGs


@pytest.fixture
def lively(stack: Stack) -> Model:
    """A model whose version 2 is live and version 1 warm."""
    return deployed(stack, versions=2)


def test_the_gc_dag(stack: Stack, airflow: AirflowCommand) -> None:
    model = deployed(stack, versions=3)
    (model.path / ".trash-entry-9-0badcafe").mkdir()
    ended = airflow("dags", "test", "gc_triton", "-c", json.dumps({"dry_run": True}))
    assert ended.code == 0, ended.output
    assert list(model.path.glob(".trash-*"))
    ended = airflow("dags", "test", "gc_triton")
    assert ended.code == 0, ended.output
    assert not list(model.path.glob(".trash-*"))
    assert model.ready_versions(model.name) == {3}


def test_the_revert_dag(lively: Model, airflow: AirflowCommand) -> None:
    conf = json.dumps({"model": lively.name, "to": 1, "reason": "from the UI"})
    ended = airflow("dags", "test", "revert_triton", "-c", conf)
    assert ended.code == 0, ended.output
    current = json.loads(lively.current or b"")
    assert (current["active_version"], current["reason"]) == (1, "from the UI")
    assert current["actor"].startswith("airflow:")
    assert lively.ready_versions(lively.name) == {1}


@pytest.mark.soak
def test_the_revert_dag_fails_when_there_is_nothing_to_go_back_to(
    lively: Model, airflow: AirflowCommand
) -> None:
    before = lively.current
    params = json.dumps({"model": lively.name, "to": 9})
    ended = airflow("dags", "test", "revert_triton", "-c", params)
    assert ended.code == 1
    assert "never live" in ended.output
    assert "never live" in airflow("tasks", "test", "revert_triton", "revert", "-t", params).output
    assert lively.current == before


def test_the_reconcile_dag(lively: Model, airflow: AirflowCommand) -> None:
    lively.triton.unload_model(lively.name)
    await_value(lambda: not lively.ready_versions(lively.name) or None, "the unload")
    airflow("dags", "test", "reconcile_triton")
    assert lively.ready_versions(lively.name) == {2}
