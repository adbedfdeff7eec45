"""The deploy DAG as a file: its shape, its form, what it imports, how it maps errors. Airflow itself does not run here."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ml_code.triton_deploy.deploy import deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import DeployError, LeaseHeld, Unavailable
from ml_code.triton_deploy.fleet.smoke import SMOKE_REQUESTS
from ml_code.triton_deploy.rules.deployment import Canary
from ml_code.triton_deploy.rules.names import deploy_id_for
from tests.support.dags import REPO, library_environment

DAG_MODULE = "dags.mlflow_to_triton_deploy"
SHARED = "ml_code.airflow_provider.deploy_steps"
DAG_FILES = sorted(path.stem for path in (REPO / "dags").glob("*.py"))
ON_ALIAS = "deploy_on_alias"
"""Makes a DAG for each alias that is watched."""
MARGIN_S = 60
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STEPS = {
    "snapshot_current": "snapshot",
    "materialize_repo": "materialize",
    "triton_load": "load",
    "triton_ready": "ready",
    "triton_infer_smoke": "smoke",
    "commit_current": "commit",
}
CHAIN = [*list(STEPS)[:-1], "canary_release", list(STEPS)[-1]]
"""What comes one after the other before a version is live."""
SLOW = ["mlflow", "boto3", "tritonclient", "onnx", "onnxruntime", "sklearn", "skl2onnx", "requests", "grpc"]


@pytest.fixture(scope="module")
def dag_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in library_environment(tmp_path_factory.mktemp("airflow")).items():
            patch.setenv(name, value)
        yield importlib.import_module(DAG_MODULE)


@pytest.fixture
def dag(dag_file: ModuleType) -> Any:
    return dag_file.dag


@dataclass(frozen=True)
class Parsed:
    """What a process has after it imported every DAG file: modules, and the time limit of each task, seconds."""

    modules: list[str]
    limits_s: dict[str, float]


LONG = {"LOAD": 5000.0, "ALIAS_WAIT": 6000.0, "READY": 7000.0, "INFER": 8000.0}
"""Deadlines that somebody with large models and slow machines has set, seconds."""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    code = f"""
import importlib, json, sys
modules = [importlib.import_module(name) for name in {[f"dags.{name}" for name in DAG_FILES]}]
dags = [dag for module in modules for dag in getattr(module, "dags", None) or [module.dag]]
limits = {{task.task_id: task.execution_timeout for dag in dags for task in dag.tasks if task.execution_timeout}}
print(json.dumps([list(sys.modules), {{task: limit.total_seconds() for task, limit in limits.items()}}]))
"""
    deadlines = {
        f"TRITON_DEPLOY_{name}{'' if name == 'ALIAS_WAIT' else '_TIMEOUT'}_S": str(value)
        for name, value in LONG.items()
    }
    watched = {"TRITON_EVENTS_WATCH": "best_model@A,other@champion"}
    environment = os.environ | library_environment(tmp_path_factory.mktemp("airflow")) | deadlines | watched
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, env=environment, check=True, capture_output=True, text=True)
    return Parsed(*json.loads(done.stdout.splitlines()[-1]))


def test_parsing_imports_no_client_library(parsed: Parsed) -> None:
    assert [name for name in SLOW if name in parsed.modules] == []


def test_dag_files_load_from_a_subfolder_of_anybodys_dags(tmp_path: Path) -> None:
    """By Airflow's own loader, in another working directory: a DAG file needs nothing beside it."""
    folder = tmp_path / "dags/of/ours"
    shutil.copytree(REPO / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps([sorted(bag.dags), bag.import_errors]))
"""
    environment = (
        os.environ | library_environment(tmp_path / "airflow") | {"TRITON_EVENTS_WATCH": "m@champion"}
    )
    command = [sys.executable, "-c", code, str(tmp_path / "dags")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dags, errors = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert dags == sorted({*DAG_FILES, f"{ON_ALIAS}.m.champion"} - {ON_ALIAS})


def test_a_step_imports_the_client_libraries_that_it_needs_and_no_other() -> None:
    """Each is a process of its own, which waits for what it imports: a step that asks Triton asks no MLflow."""
    code = """
import sys
from ml_code.triton_deploy.deploy import deployer, request
from ml_code.triton_deploy.rules import canary
from ml_code.triton_deploy.upkeep import bake
from ml_code.triton_deploy.watch import policy
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, capture_output=True, text=True)
    assert [name for name in [*SLOW, "numpy", "urllib3"] if name in done.stdout.split()] == []


def test_deadlines_come_before_the_time_limits_of_the_tasks_that_wait_for_them(parsed: Parsed) -> None:
    """A task that Airflow ends says nothing of what it waited for."""
    shortest = {
        # It may settle an abandoned deploy first, which may load what serves again.
        "snapshot_current": LONG["ALIAS_WAIT"] + LONG["LOAD"],
        "triton_load": LONG["LOAD"],
        "triton_ready": LONG["READY"],
        "triton_infer_smoke": (1 + SMOKE_REQUESTS) * LONG["INFER"],
        # Its flip may fail, and the way back needs a load.
        "commit_current": LONG["INFER"] + LONG["LOAD"],
        "rollback_minimal": LONG["LOAD"],
        "bake_release": 24 * 3600 + 3 * LONG["LOAD"] + LONG["READY"],
        "revert": 3 * LONG["LOAD"] + LONG["READY"] + (2 + SMOKE_REQUESTS) * LONG["INFER"],
        "reconcile": 2 * LONG["LOAD"],
    }
    assert {task: limit for task, limit in shortest.items() if parsed.limits_s[task] < limit + MARGIN_S} == {}


# Its shape


def test_its_tasks_and_when_each_runs(dag: Any) -> None:
    rules = {task.task_id: task.trigger_rule for task in dag.tasks}
    assert rules == {
        **dict.fromkeys(CHAIN, "all_success"),
        "bake_release": "all_success",
        "rollback_minimal": "one_failed",
        "deployed": "all_success",
    }


def test_one_chain_and_a_rollback_of_every_step(dag: Any) -> None:
    *steps, last = [*CHAIN, "bake_release"]
    for step, following in zip(steps, [*steps[1:], last], strict=True):
        assert dag.get_task(step).downstream_task_ids == {following, "rollback_minimal"}
    # What is committed is not undone by the rollback: a bad release is reverted by the bake itself.
    assert dag.get_task("bake_release").downstream_task_ids == {"deployed"}
    assert dag.get_task("rollback_minimal").upstream_task_ids == set(CHAIN)


def test_the_rollback_is_not_the_only_leaf(dag: Any) -> None:
    assert {task.task_id for task in dag.tasks if not task.downstream_task_ids} == {
        "rollback_minimal",
        "deployed",
    }


def test_it_runs_on_demand_one_run_at_a_time(dag: Any) -> None:
    assert dag.dag_id == "mlflow_to_triton_deploy"
    assert dag.schedule is None
    assert dag.max_active_runs == 1


def test_tasks_time_out_and_the_run_does_not(dag: Any) -> None:
    # Airflow skips the rollback of a run that times out.
    assert dag.dagrun_timeout is None
    for name in [*CHAIN, "bake_release", "rollback_minimal"]:
        assert dag.get_task(name).execution_timeout, name


@pytest.mark.parametrize("name", ["reconcile_triton", "gc_triton"])
def test_what_runs_by_itself_is_tried_again_when_its_process_was_killed(
    dag_file: ModuleType, name: str
) -> None:
    """As by Airflow itself, while the API server starts: the first run that a newcomer sees would be red."""
    (task,) = importlib.import_module(f"dags.{name}").dag.tasks
    assert task.retries == 2
    assert task.retry_delay.total_seconds() == 10


def test_the_rollback_is_tried_again(dag: Any) -> None:
    assert dag.get_task("rollback_minimal").retries >= 3


# Its form


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("alias", "has a space"),
        ("alias", ""),
        ("alias", "latest"),
        ("alias", "v12"),
        ("alias", "a/b"),
        ("alias", None),
        ("model", "../x"),
        ("model", ""),
        ("model", "best.model"),
        ("model", 5),
        ("allow_schema_change", "yes"),
        ("force", 1),
        ("deploy_id", "../x"),
        ("deploy_id", ".hidden"),
        ("bake_minutes", -1),
        ("canary", "5;25"),
        ("canary", "all"),
        ("canary_minutes", 0),
        ("canary_minutes", 481),
        ("shadow_percent", 101),
        ("shadow_percent", 2.5),
        ("bake_minutes", "long"),
    ],
)
def test_the_form_refuses(dag: Any, param: str, value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        copy(dag.params.get_param(param)).resolve(value)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("alias", "A"),
        ("alias", "champion-2"),
        ("model", "fraud_v2"),
        ("force", True),
        ("deploy_id", ""),
        ("deploy_id", None),
        ("deploy_id", "ci-17.2"),
        ("bake_minutes", None),
        ("canary", ""),
        ("canary", "5, 25,50"),
        ("canary_minutes", 0.5),
        ("shadow_percent", 100),
        ("bake_minutes", 0),
        ("bake_minutes", 2.5),
    ],
)
def test_the_form_accepts(dag: Any, param: str, value: object) -> None:
    assert copy(dag.params.get_param(param)).resolve(value) == value


def test_the_defaults_of_the_form(dag: Any) -> None:
    assert dag.params.dump() == {
        "alias": "A",
        "model": "best_model",
        "allow_schema_change": False,
        "force": False,
        "deploy_id": None,
        "bake_minutes": None,
        "canary": None,
        "canary_minutes": 10,
        "shadow_percent": 0,
    }


@pytest.mark.parametrize("name", [name for name in DAG_FILES if name != ON_ALIAS])
def test_the_form_can_be_sent_as_it_opens(name: str, dag_file: ModuleType) -> None:
    """Airflow's page keeps its Trigger button grey while a field is empty that may not be null."""
    params = importlib.import_module(f"dags.{name}").dag.params
    empty = {key for key, value in params.dump().items() if value in (None, "")}
    for key in empty:
        assert "null" in params.get_param(key).schema["type"], key


# What follows an alias


def test_without_a_watched_alias_nothing_follows_one(dag_file: ModuleType) -> None:
    assert importlib.import_module(f"dags.{ON_ALIAS}").dags == []


def test_an_alias_that_moved_triggers_the_deploy_of_just_that(dag_file: ModuleType) -> None:
    dag = importlib.import_module(f"dags.{ON_ALIAS}").deploys("other", "champion")
    assert (dag.dag_id, dag.is_paused_upon_creation) == ("deploy_on_alias.other.champion", False)
    (asset,) = dag.schedule
    (watcher,) = asset.watchers
    assert watcher.trigger.serialize()[1] == {"model": "other", "alias": "champion", "poll_s": 5.0}
    (task,) = dag.tasks
    assert task.trigger_dag_id == dag_file.dag.dag_id
    assert task.conf == {"model": "other", "alias": "champion"}
    assert "{{ run_id }}" in task.trigger_run_id, "a retry asks for the same run"


# What a task does


class RecordingDeployer:
    """Takes a Deployer's place: notes the calls, raises what a test wants."""

    error: DeployError | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __call__(self, settings: object) -> RecordingDeployer:
        return self

    def __getattr__(self, step: str) -> Any:
        def call(*args: Any) -> None:
            self.calls.append((step, args))
            if self.error:
                raise self.error

        return call


PROMOTED = {"promote": {"version": 4, "reason": "it is better"}}
PARAMS = {"model": "m", "alias": "B", "allow_schema_change": True, "force": False, "deploy_id": None}


@pytest.fixture
def recorded(dag_file: ModuleType, monkeypatch: pytest.MonkeyPatch) -> RecordingDeployer:
    recording = RecordingDeployer()
    monkeypatch.setattr(deployer, "Deployer", recording)
    return recording


def run(dag_file: ModuleType, monkeypatch: pytest.MonkeyPatch, task_id: str, **params: Any) -> None:
    context = {
        "params": PARAMS | params,
        "run_id": "manual__2026-01-02T03:04:05+00:00",
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: PROMOTED[task_ids]),
        "dag_run": SimpleNamespace(start_date=BEGAN),
    }
    for module in (importlib.import_module(SHARED), dag_file):
        monkeypatch.setattr(module, "get_current_context", lambda: context, raising=False)
    dag_file.dag.get_task(task_id).python_callable()


def test_the_snapshot_asks_for_what_the_form_says(
    dag_file: ModuleType, recorded: RecordingDeployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dag_file, monkeypatch, "snapshot_current")
    run_id = "manual__2026-01-02T03:04:05+00:00"
    request = DeployRequest(
        model="m",
        alias="B",
        deploy_id=deploy_id_for(run_id),
        actor=f"airflow:{run_id}",
        allow_schema_change=True,
        force=False,
        since=BEGAN,
    )
    assert recorded.calls == [("snapshot", (request,))]
    run(dag_file, monkeypatch, "snapshot_current", canary="5,25", shadow_percent=10.0, canary_minutes=2)
    canary = recorded.calls[1][1][0].canary
    assert canary == Canary(shares_percent=(5, 25), shadow_percent=10, step_s=120)
    assert isinstance(canary.shadow_percent, int), "a whole number of JSON may come as 10.0"


@pytest.mark.parametrize(("task_id", "step"), [*list(STEPS.items())[1:], ("rollback_minimal", "rollback")])
def test_every_other_task_runs_its_step_on_the_record_alone(
    dag_file: ModuleType,
    recorded: RecordingDeployer,
    monkeypatch: pytest.MonkeyPatch,
    task_id: str,
    step: str,
) -> None:
    run(dag_file, monkeypatch, task_id)
    run(dag_file, monkeypatch, task_id, deploy_id="ci-17")
    from_the_run = deploy_id_for("manual__2026-01-02T03:04:05+00:00")
    assert recorded.calls == [(step, ("m", from_the_run)), (step, ("m", "ci-17"))]


def test_a_try_of_a_revert_names_the_tries_before_it(
    recorded: RecordingDeployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    revert_file = importlib.import_module("dags.revert_triton")
    by_hand = importlib.import_module("ml_code.airflow_provider.by_hand")
    for number in (0, 1, 3):
        context = {
            "params": {"model": "m", "to": None, "reason": "fire", "unverified": number == 3},
            "run_id": "r",
            "ti": SimpleNamespace(try_number=number),
        }
        monkeypatch.setattr(by_hand, "get_current_context", lambda context=context: context)
        revert_file.dag.get_task("revert").python_callable()
    (_, (_, none_in_tasks_test)), (_, (first, nothing_before)), (_, (third, before)) = recorded.calls
    assert none_in_tasks_test == nothing_before == []
    assert before[0] == first.deploy_id
    assert len({*before, third.deploy_id}) == 3
    assert [(asked.unverified, asked.reason) for asked in (first, third)] == [(False, "fire"), (True, "fire")]


def test_a_revert_takes_no_number_that_no_version_has() -> None:
    revert_file = importlib.import_module("dags.revert_triton")
    schema = revert_file.dag.params.get_param("to").schema
    assert (schema["minimum"], schema["maximum"]) == (1, 2**31 - 1)


def kinds(error: type[DeployError] = DeployError) -> Iterator[type[DeployError]]:
    for kind in error.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds()))
def test_only_what_a_retry_can_mend_is_retried(
    dag_file: ModuleType,
    recorded: RecordingDeployer,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DeployError],
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    recorded.error = kind("It broke.", hint="Mend it.")
    # Airflow tries again after any exception but this one.
    expected = kind if issubclass(kind, (Unavailable, LeaseHeld)) else AirflowFailException
    with pytest.raises(expected, match=r"^It broke\. Mend it\.$"):
        run(dag_file, monkeypatch, "triton_load")
    # What a rollback leaves undone, nobody else does in this run.
    with pytest.raises(kind):
        run(dag_file, monkeypatch, "rollback_minimal")


# Retraining: the same tasks behind a gate


@pytest.fixture
def retrain(dag_file: ModuleType) -> ModuleType:
    """What the tasks of a retraining do."""
    return importlib.import_module("ml_code.airflow_provider.retrain")


@pytest.fixture
def retraining(dag_file: ModuleType) -> ModuleType:
    return importlib.import_module("dags.retrain_and_deploy")


def test_retraining_runs_daily_by_itself_only_when_somebody_wants_it(retraining: ModuleType) -> None:
    dag = retraining.dag
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("@daily", False, 1)
    assert dag.is_paused_upon_creation
    assert dag.dagrun_timeout is None


def test_retraining_has_the_tasks_of_a_deploy_behind_its_own(retraining: ModuleType, dag: Any) -> None:
    tasks = {task.task_id: task for task in retraining.dag.tasks}
    own = {"train", "evaluate", "gate", "approve_promotion", "promote", "settle_alias", "retrained"}
    assert set(tasks) == {task.task_id for task in dag.tasks} | own
    for task in dag.tasks:
        same = tasks[task.task_id]
        assert (same.trigger_rule, same.execution_timeout) == (task.trigger_rule, task.execution_timeout)
        assert same.downstream_task_ids - own == task.downstream_task_ids


def test_the_way_through_a_retraining(retraining: ModuleType) -> None:
    before = {task.task_id: task.upstream_task_ids for task in retraining.dag.tasks}
    assert before["evaluate"] == {"train"}
    assert before["gate"] == {"evaluate"}
    assert before["approve_promotion"] == {"gate"}
    assert before["promote"] == {"evaluate", "gate", "approve_promotion"}
    assert before["snapshot_current"] == {"promote"}
    assert before["settle_alias"] == {"deployed", "rollback_minimal"}
    assert before["retrained"] == {"settle_alias", "deployed"}
    assert {task.task_id for task in retraining.dag.tasks if not task.downstream_task_ids} == {"retrained"}


def test_when_the_tasks_of_a_retraining_run(retraining: ModuleType) -> None:
    rules = {task.task_id: task.trigger_rule for task in retraining.dag.tasks}
    # Without an approval the task before is skipped.
    assert rules["promote"] == "none_failed_min_one_success"
    # Whatever came of the deploy.
    assert rules["settle_alias"] == "all_done"
    assert rules["retrained"] == "all_success"


def test_an_approval_that_is_not_given_in_time_is_a_refusal(retraining: ModuleType) -> None:
    approval = retraining.dag.get_task("approve_promotion")
    assert approval.defaults == ["Reject"]
    assert approval.response_timeout.total_seconds() == 12 * 3600
    assert not approval.fail_on_reject
    # The alias is settled whatever came before, but not after a refusal.
    assert approval.ignore_downstream_trigger_rules


@pytest.mark.parametrize(
    ("promote", "approval", "next_task"),
    [(True, False, "promote"), (True, True, "approve_promotion"), (False, True, None), (False, False, None)],
)
def test_the_gate_lets_through_what_is_better(
    retraining: ModuleType,
    retrain: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    promote: bool,
    approval: bool,
    next_task: str | None,
) -> None:
    monkeypatch.setattr(retrain, "get_current_context", lambda: {"params": {"approval": approval}})
    chosen = retraining.dag.get_task("gate").python_callable({"promote": promote, "headline": "why"})
    assert chosen == next_task


def test_a_retraining_deploys_exactly_the_version_that_it_promoted(
    retraining: ModuleType, recorded: RecordingDeployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(retraining, monkeypatch, "snapshot_current")
    ((step, (request,)),) = recorded.calls
    assert step == "snapshot"
    assert (request.model, request.alias, request.version) == ("m", "B", 4)
    assert request.reason == "it is better"


@pytest.mark.parametrize(
    ("param", "value"),
    [("options", "x"), ("rules", []), ("seed", -1), ("parity_tolerance", 0), ("approval", "yes")],
)
def test_the_form_of_a_retraining_refuses(retraining: ModuleType, param: str, value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        copy(retraining.dag.params.get_param(param)).resolve(value)


def test_rules_that_can_not_be_meant_cost_no_training(
    retraining: ModuleType, retrain: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    params = {"params": {**retraining.dag.params.dump(), "rules": {"margni": 1}}}
    monkeypatch.setattr(retrain, "get_current_context", lambda: params)
    with pytest.raises(AirflowFailException, match="'margni' is no rule of the gate"):
        retraining.dag.get_task("train").python_callable()


@pytest.mark.parametrize(
    ("command", "imports"),
    [
        (["scheduler"], True),
        (["celery", "worker"], True),
        (["api-server"], False),
        (["dag-processor"], False),
    ],
    ids=["LocalExecutor", "Celery", "API server", "DAG processor"],
)
def test_what_starts_tasks_has_imported_what_they_need(command: list[str], imports: bool) -> None:
    settings = REPO / "deploy/airflow/airflow_local_settings.py"
    script = f"import runpy, sys; runpy.run_path({str(settings)!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=REPO, capture_output=True, text=True, check=True
    )
    names = runpy.run_path(str(settings))["USED_BY_TASKS"]
    assert {name in done.stdout.split() for name in names} == {imports}
