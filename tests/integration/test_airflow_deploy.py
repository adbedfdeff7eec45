"""The deploy DAG on real Airflow, MLflow, S3 and Triton: what is live changes, or nothing does, and clients never notice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from ml_code.triton_deploy import cli, commands
from ml_code.triton_deploy.deployer import Deployer
from ml_code.triton_deploy.intake import DeployRequest
from ml_code.triton_deploy.names import engine_name
from ml_code.triton_deploy.records import State
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.repository.versions import SMOKE_CASE
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from stack.servers import DEPLOY_DAG, REPO
from tests.models import files, golden, times, unknown_operator

from .airflow_runs import (
    AirflowCommand,
    AirflowServer,
    Ended,
    Run,
    await_value,
    environment_without_airflow,
)
from .clients import Client
from .hanging import blocked
from .publishing import Publisher

pytestmark = pytest.mark.integration

TASKS = {
    "snapshot": "snapshot_current",
    "materialize": "materialize_repo",
    "load": "triton_load",
    "ready": "triton_ready",
    "smoke": "triton_infer_smoke",
    "commit": "commit_current",
}
CHAIN = [*list(TASKS.values())[:-1], "canary_release", TASKS["commit"], "bake_release", "deployed"]
"""What comes one after the other; a canary and a bake that were not asked for succeed at once."""
ALL_WENT_WELL = {**dict.fromkeys(CHAIN, "success"), "rollback_minimal": "skipped"}


def failed_at(step: str) -> dict[str, str]:
    """The states of a run whose ``step`` failed and whose rollback did its work."""
    failing = TASKS.get(step, f"{step}_release")
    before = CHAIN[: CHAIN.index(failing)]
    states = dict.fromkeys(CHAIN, "upstream_failed") | dict.fromkeys(before, "success")
    return states | {failing: "failed", "rollback_minimal": "success"}


class Model:
    """A model of one test on the session's stack. Version n is ``y = x * n``."""

    def __init__(self, stack: Stack) -> None:
        self.name = f"m_{uuid.uuid4().hex[:12]}"
        self.stack = stack
        self.settings = Settings.from_env(stack.environment)
        self.folder = ModelFolder.at(self.settings.repository_root, self.name)
        self.triton = InferenceServerClient(stack.url("triton-grpc"))
        self._publisher = Publisher(stack.environment)
        self._version = 0

    def register(self, artifact: dict[str, bytes] | None = None, alias: str = "A") -> int:
        """Register the next version, a good one unless ``artifact`` is another, and point the alias at it."""
        self._version += 1
        published = self._publisher.publish(self.name, artifact or good(self._version), alias=alias)
        assert published == self._version
        return published

    def point_alias(self, alias: str, version: int) -> None:
        self._publisher.set_alias(self.name, alias, version)

    def deploy(self) -> None:
        """Deploy without Airflow what alias A names: the state that a test begins with."""
        deploy_id = f"before-{self._version}"
        Deployer(self.settings).deploy(DeployRequest(model=self.name, alias="A", deploy_id=deploy_id))

    def client(self) -> Client:
        return Client(self.stack.url("triton-grpc"), self.name)

    @property
    def path(self) -> Path:
        return self.settings.repository_root / self.name

    @property
    def current(self) -> bytes | None:
        path = self.path / "current.json"
        return path.read_bytes() if path.exists() else None

    @property
    def quarantined(self) -> dict[str, dict[str, str]]:
        """The content of ``failure.json`` by the name of its directory."""
        found = self.path.glob("*.failed_*")
        return {path.name: json.loads((path / "failure.json").read_text()) for path in found}

    def state(self, deploy_id: str) -> State | None:
        record = self.folder.journal.find(deploy_id)
        return record.state if record else None

    def ready_versions(self, name: str) -> set[int]:
        index = self.triton.get_model_repository_index().models
        return {int(entry.version) for entry in index if entry.name == name and entry.state == "READY"}

    def status(self, deploy_id: str) -> int:
        """The exit code of `triton-deploy status MODEL --deploy-id …`, as CI asks."""
        argv = [sys.executable, "-m", cli.__name__, "status", self.name, "--deploy-id", deploy_id]
        return subprocess.run(argv, cwd=REPO, env=os.environ | self.stack.environment, check=False).returncode

    def at_work(self) -> psutil.Process:
        """The process that has the lease: the one that runs a step of the deploy."""
        lease = max((self.path / "leases").glob("*.json"))
        return psutil.Process(int(json.loads(lease.read_text())["holder"].rpartition(":")[2]))

    def engine_process(self, version: int) -> psutil.Process | None:
        """The process in which Triton holds the weights of a version."""
        instance = f"{engine_name(self.name, version)}_0_0"
        for child in psutil.Process(self.stack.pid("triton")).children():
            with suppress(psutil.NoSuchProcess):
                if instance in child.cmdline():
                    return child
        return None


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Act in another thread during the block; what fails there fails the test."""
    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(action)
        yield
        acted.result()


@contextmanager
def stopped_at(model: Model, state: State) -> Iterator[None]:
    """Wait until the deploy recorded ``state``, and stop its process there for the length of the block."""
    await_value(lambda: model.state("d2") is state or None, state, limit_s=60, pause_s=0.002)
    with stopped(model.at_work()):
        assert model.state("d2") is state, "too late: the test has to be quicker than the deploy"
        yield


@contextmanager
def hanging_load(model: Model) -> Iterator[None]:
    """Wait until Triton loads version 2, and keep that from ending for the length of the block."""
    file = model.path / "2" / "model.onnx"
    await_value(lambda: file.exists() or None, "version 2's files", limit_s=60, pause_s=0.002)
    with blocked(file) as somebody_waits:
        await_value(lambda: somebody_waits() or None, "a load", limit_s=60, pause_s=0.01)
        assert not model.ready_versions(engine_name(model.name, 2)), "too late"
        yield


def good(version: int) -> dict[str, bytes]:
    return files(times(version), triton__golden_json=golden(version))


@pytest.fixture(scope="session")
def airflow(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowCommand]:
    """Airflow's command line with a database of its own; no Airflow runs."""
    home = tmp_path_factory.mktemp("airflow")
    settings = {"TRITON_DEPLOY_ALIAS_WAIT_S": "0", "TRITON_DEPLOY_READY_TIMEOUT_S": "2"}
    environment = environment_without_airflow(stack, home, **settings)
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, cwd=REPO, env=environment, check=True, capture_output=True)
    command = AirflowCommand(home, environment)
    yield command
    command.close()


@pytest.fixture
def model(stack: Stack) -> Model:
    return Model(stack)


@pytest.fixture
def live(model: Model) -> Model:
    """A model whose version 1 is live."""
    model.register()
    model.deploy()
    return model


# `airflow dags test`: the whole chain, no Airflow running


def test_the_documented_command_deploys(live: Model, airflow: AirflowCommand) -> None:
    live.register()
    with live.client() as client:
        conf = json.dumps({"model": live.name, "alias": "A"})
        argv = [sys.executable, "-m", "airflow", "dags", "test", DEPLOY_DAG, "-c", conf]
        done = subprocess.run(
            argv, cwd=REPO, env=airflow.environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        seen = client.seen()
    assert seen.failures == ()
    assert seen.distinct == ((1, 1.0), (2, 2.0))
    current = json.loads(live.current or b"")
    assert (current["active_version"], current["previous_version"], current["alias"]) == (2, 1, "A")


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
        "load",
        r"failed loading .*nobody\.knows.*the model or its triton/config\.json needs repair",
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
IN_SOAK = {"wants a GPU", "unloaded before commit", "another release came first"}


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
    live.folder.lease.acquire("another-deploy", datetime.now(UTC), 5)
    ended, run = airflow.deploy(model=live.name, deploy_id="d2")
    assert (ended.code, run.tasks) == (0, ALL_WENT_WELL), ended.output
    assert "Deployment another-deploy" in ended.output
    assert live.ready_versions(live.name) == {2}


def test_the_command_line_refuses_bad_params(airflow: AirflowCommand) -> None:
    ended = airflow("dags", "test", DEPLOY_DAG, "-c", json.dumps({"model": "../x"}))
    assert ended.code == 1
    assert "'../x'" in ended.output
    assert "Failed validating 'pattern'" in ended.output


# `airflow tasks test`: one task at a time, no XCom, always exit code 0


def test_single_tasks_are_tied_together_by_the_deploy_id(live: Model, airflow: AirflowCommand) -> None:
    live.register()
    for task in TASKS.values():
        assert task_alone(airflow, live, task).code == 0
        assert live.status("d2") == (0 if task == "commit_current" else commands.EXIT_UNFINISHED)
    assert live.state("d2") is State.COMMITTED
    assert live.ready_versions(live.name) == {2}


def test_a_single_task_that_fails_exits_0_and_the_status_tells(live: Model, airflow: AirflowCommand) -> None:
    before = live.current
    assert live.status("d2") == 3, "not begun"
    live.register(files(b"junk"))
    task_alone(airflow, live, "snapshot_current")
    failing = task_alone(airflow, live, "materialize_repo")
    assert failing.code == 0, "Airflow's rule; when it changes, the README has to"
    assert "AirflowFailException" in failing.output
    assert live.status("d2") == commands.EXIT_UNFINISHED
    out_of_order = task_alone(airflow, live, "commit_current")
    assert "materialize is due, not commit" in out_of_order.output
    task_alone(airflow, live, "rollback_minimal")
    assert live.status("d2") == commands.EXIT_ROLLED_BACK
    assert live.current == before
    (failure,) = live.quarantined.values()
    assert failure["step"] == "materialize"


def task_alone(airflow: AirflowCommand, model: Model, task: str) -> Ended:
    params = json.dumps({"model": model.name, "deploy_id": "d2"})
    return airflow("tasks", "test", DEPLOY_DAG, task, "-t", params)


# A running Airflow, asked by REST as its UI does


@pytest.fixture(scope="session")
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
    ],
)
def test_bad_params_are_refused_before_anything_runs(
    server: AirflowServer, conf: dict[str, object], message: str
) -> None:
    answer = server.trigger(conf)
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


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
    assert re.search(rf"d2 of {live.name} was moved to (rolling|rolled)_back by somebody else", log)
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
