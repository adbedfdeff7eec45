"""What a run may be asked for: every DAG refuses a conf with a key that is no param of it, and the command line has the same names."""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from docs.reference_tables import subcommands
from ml_code import train_model
from ml_code.airflow_provider.run_conf import (
    OTHER_NAMES,
    meant,
    refuse_ignored,
    refuse_no_number,
    refuse_unknown,
)
from ml_code.gate import __main__ as gate
from ml_code.triton_deploy import cli
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import InvalidInput, Misconfigured
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.names import check_reason
from tests.support.dags import REPO, library_environment
from tests.support.world import MODEL, World

DEPLOY, REVERT, RETRAIN = "mlflow_to_triton_deploy", "revert_triton", "retrain_and_deploy"
ON_ALIAS = "deploy_on_alias.other.champion"
DECIDE = "decide_canary"
ALL = [DEPLOY, REVERT, RETRAIN, ON_ALIAS, DECIDE, "reconcile_triton", "gc_triton"]
PUT_BACK = {"rollback_minimal", "settle_alias"}
"""Tasks that run whatever failed before."""
RUN = "manual__2026-01-02T03:04:05+00:00"


def dags_in(folder: Path) -> dict[str, Any]:
    """Return every DAG that Airflow finds in a folder."""
    from airflow.sdk import DAG

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.py")):
        for value in runpy.run_path(str(file)).values():
            for dag in value if isinstance(value, list) else [value]:
                if isinstance(dag, DAG):
                    found[dag.dag_id] = dag
    return found


@pytest.fixture(scope="module")
def run_params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    environment = library_environment(tmp_path_factory.mktemp("airflow"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "TRITON_EVENTS_WATCH": "other@champion"}.items():
            patch.setenv(name, value)
        yield importlib.import_module("ml_code.airflow_provider.run_params")


@pytest.fixture(scope="module")
def dags(run_params: ModuleType) -> dict[str, Any]:
    return dags_in(REPO / "dags")


def unchecked(dag: Any) -> list[str]:
    """Return the tasks of a DAG that would run whatever the run's conf holds."""
    return [
        task.task_id
        for task in dag.tasks
        if getattr(task._pre_execute_hook, "__name__", "")
        != ("own_deployment_only" if task.task_id in PUT_BACK else "known_params_only")
    ]


def context(task: Any, conf: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Return what Airflow gives a task of a run with such a conf."""
    from airflow.sdk.definitions.param import process_params

    # Airflow writes into the params, and has a process for each task.
    own = SimpleNamespace(params=deepcopy(task.params))
    params = process_params(task.dag, own, dict(conf) if conf else None, suppress_exception=False)
    run = SimpleNamespace(conf=conf)
    return {"task": task, "dag": task.dag, "dag_run": run, "params": params, "run_id": RUN} | more


# Every DAG


def test_every_task_of_every_dag_looks_at_the_conf_first(dags: Mapping[str, Any]) -> None:
    assert sorted(dags) == sorted(ALL)
    assert {name: unchecked(dag) for name, dag in dags.items()} == {name: [] for name in ALL}


def test_a_new_dag_that_does_not_look_is_seen(tmp_path: Path, run_params: ModuleType) -> None:
    (tmp_path / "new.py").write_text(
        "from airflow.sdk import DAG, task\n"
        "with DAG(dag_id='new', schedule=None) as dag:\n"
        "    @task\n    def act() -> None: ...\n    act()\n"
    )
    assert unchecked(dags_in(tmp_path)["new"]) == ["act"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("conf", [{"no_such_key": 1}, {"Model": "m"}, {"MODEL ": None}, {"": ""}, {"to ": 1}])
def test_a_key_that_is_no_param_fails_the_run_at_once(
    dags: Mapping[str, Any], name: str, conf: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(tmp_path))
    (key,) = conf
    for task in dags[name].tasks:
        # Nothing is tried again, and nothing is put back: a skip.
        expected = AirflowSkipException if task.task_id in PUT_BACK else AirflowFailException
        with pytest.raises(expected, match=f"has no param {key!r}: nothing was done"):
            task._pre_execute_hook(context(task, conf))


@pytest.mark.parametrize("name", ALL)
def test_what_is_a_param_is_let_through(dags: Mapping[str, Any], name: str) -> None:
    for task in dags[name].tasks:
        every = {key: json.loads(json.dumps(value)) for key, value in dags[name].params.dump().items()}
        for conf in (None, {}, every, {**every, "openlineage": {"parentRunId": "x"}}):
            task._pre_execute_hook(context(task, conf))


@pytest.mark.parametrize("name", ALL)
def test_a_misspelt_setting_of_the_worker_fails_the_run_at_once(
    dags: Mapping[str, Any], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(tmp_path))
    monkeypatch.setenv("TRITON_DEPLOY_KEEP_WRAM", "2")
    for task in dags[name].tasks:
        expected = AirflowSkipException if task.task_id in PUT_BACK else AirflowFailException
        with pytest.raises(expected, match=r"Did you mean TRITON_DEPLOY_KEEP_WARM\?"):
            task._pre_execute_hook(context(task, {}))


def test_what_airflow_tasks_test_adds_to_the_params_is_looked_at(dags: Mapping[str, Any]) -> None:
    """It knows no conf: `-t` puts new params beside the DAG's."""
    from airflow.sdk.exceptions import AirflowFailException

    task = dags[REVERT].get_task("revert")
    told = context(task, None)
    told["params"]["version"] = 1
    with pytest.raises(AirflowFailException, match="Did you mean 'to'"):
        task._pre_execute_hook(told)


def test_a_refused_run_puts_back_only_what_it_had_begun(
    dags: Mapping[str, Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deploy_id may name the deployment of another run; and a DAG may get other params in the middle of a run."""
    from airflow.sdk.exceptions import AirflowSkipException

    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    world.register_times(1)
    world.deployer().snapshot(world.request("of-another", actor="airflow:another"))
    rollback = dags[DEPLOY].get_task("rollback_minimal")
    conf = {"model": MODEL, "deploy_id": "of-another", "forse": True}
    with pytest.raises(AirflowSkipException, match="Nothing is to be put back"):
        rollback._pre_execute_hook(context(rollback, conf))
    assert world.folder.journal.get("of-another").state is State.PINNED
    rollback._pre_execute_hook(context(rollback, conf, run_id="another"))


def test_people_are_told_once_that_a_run_was_refused(
    dags: Mapping[str, Any], run_params: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from ml_code.triton_deploy.report import notifications

    told: list[Any] = []
    monkeypatch.setenv("TRITON_DEPLOY_NOTIFY_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(notifications, "notify", lambda settings, notification: told.append(notification))
    for task in dags[DEPLOY].tasks:
        if task.task_id not in PUT_BACK:
            with pytest.raises(AirflowFailException):
                task._pre_execute_hook(context(task, {"model": "m", "version": 1}))
    (notification,) = told
    assert (notification.event, notification.model) == ("refused", "m")
    assert notification.run == f"airflow:{DEPLOY}/{RUN}"
    assert notification.text.startswith("A run was refused. mlflow_to_triton_deploy has no param 'version'")


def test_what_triggers_a_deploy_gives_only_what_the_deploy_takes(dags: Mapping[str, Any]) -> None:
    (trigger,) = dags[ON_ALIAS].tasks
    refuse_unknown(DEPLOY, trigger.conf, list(dags[DEPLOY].params))
    # The webhook's receiver does the same (ml_code/alias_events/airflow.py; tests/unit/test_alias_events.py has its body).
    refuse_unknown(DEPLOY, {"model": "m", "alias": "a"}, list(dags[DEPLOY].params))


# What is said


PARAMS = ["alias", "model", "force", "canary", "shadow_percent", "bake_minutes", "deploy_id", "to"]


@pytest.mark.parametrize(
    ("key", "param"),
    [
        ("Alias", "alias"),
        ("ALIAS", "alias"),
        ("alais", "alias"),
        ("deployId", "deploy_id"),
        ("deploy-id", "deploy_id"),
        ("deploy id", "deploy_id"),
        ("version", "to"),
        ("shadow", "shadow_percent"),
        ("minutes", "bake_minutes"),
        ("model_name", "model"),
        ("colour", ""),
        ("", ""),
        ("\N{GREEK SMALL LETTER ALPHA}lias", "alias"),
    ],
)
def test_the_param_that_is_meant(key: str, param: str) -> None:
    assert meant(key, PARAMS) == param


@pytest.mark.parametrize(
    ("dag_id", "conf", "said"),
    [
        (DEPLOY, {"version": 1}, "Point an alias at the version in MLflow"),
        (DEPLOY, {"dry_run": True}, "--dry-run"),
        (DEPLOY, {"Alias": 1, "forc": 1}, "'Alias', 'forc'.*mean 'alias' by 'Alias'.*mean 'force' by 'forc'"),
        (DECIDE, {"action": "abort"}, "Did you mean 'decision'"),
        (REVERT, {"version": 1}, r"Did you mean 'to'\? revert_triton takes model, to, reason, unverified\."),
        ("gc_triton", {"model": "m"}, "every model of the repository"),
        (ON_ALIAS, {"model": "m"}, "takes nothing"),
    ],
)
def test_a_refusal_says_what_to_do(
    dags: Mapping[str, Any], dag_id: str, conf: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        refuse_unknown(dag_id, conf, list(dags[dag_id].params))


def test_a_refusal_is_short_and_shows_no_value() -> None:
    conf = {f"{number}\x1b[2J\n{'x' * 10_000}": "a secret" for number in range(1000)}
    with pytest.raises(InvalidInput) as raised:
        refuse_unknown(DEPLOY, conf, PARAMS)
    said = str(raised.value)
    assert len(said) < 700
    assert said.isprintable()
    assert "and 995 more" in said
    assert "secret" not in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    """Airflow lets NaN through any bounds."""
    with pytest.raises(InvalidInput, match=r"'bake_minutes' of m is .*which is no number"):
        refuse_no_number("m", {"model": "m", "bake_minutes": value})


def test_a_conf_that_airflow_does_not_take_is_refused(
    dags: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dag_run_conf_overrides_params off, a run would deploy the default model."""
    from airflow.sdk.exceptions import AirflowFailException

    monkeypatch.setenv("AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS", "False")
    task = dags[DEPLOY].get_task("snapshot_current")
    with pytest.raises(AirflowFailException, match=r"does not take 'model' .*dag_run_conf_overrides_params"):
        task._pre_execute_hook(context(task, {"model": "another"}))
    with pytest.raises(Misconfigured):
        refuse_ignored(DEPLOY, {"options": {"a": [1]}}, {"options": {"a": [2]}})
    refuse_ignored(DEPLOY, {"options": {"b": 1, "a": 2}}, {"options": {"a": 2, "b": 1}, "x": 1})


# The form, and the first step


@pytest.mark.parametrize("end", ["\n", "\x00", "\x1b[2J", "\u202e", "\u2028", "\ud800"])
def test_a_text_of_the_form_is_one_line(dags: Mapping[str, Any], end: str) -> None:
    """A pattern that ends with "$" lets a line break at the end through."""
    from airflow.sdk.exceptions import ParamValidationError

    refused = set()
    for name, dag in dags.items():
        for key in dag.params:
            schema = dag.params.get_param(key).schema
            if "string" not in schema["type"]:
                continue
            task = dag.tasks[0]
            with pytest.raises(ParamValidationError):
                context(task, {key: f"A{end}"})
            refused.add((name, key))
    assert len(refused) == 13


@pytest.mark.parametrize(
    "reason", ["", "It answers wrongly: see #17 \N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "x" * 500]
)
def test_a_reason_that_the_history_can_show(dags: Mapping[str, Any], reason: str) -> None:
    assert check_reason(reason) == reason
    assert context(dags[REVERT].tasks[0], {"reason": reason})["params"]["reason"] == reason


@pytest.mark.parametrize("reason", ["a\nb", "\x1b[31mred", "\u202eback", "\ud800", "x" * 501, "x" * 10**6])
def test_a_reason_that_the_history_can_not_show(dags: Mapping[str, Any], reason: str) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(InvalidInput, match=r"^The reason ") as raised:
        check_reason(reason)
    assert len(str(raised.value)) < 300
    with pytest.raises(ParamValidationError):
        context(dags[REVERT].tasks[0], {"reason": reason})


@pytest.mark.parametrize("value", [1.5, "1", True, 0, 2**31])
def test_a_revert_goes_to_a_whole_number(dags: Mapping[str, Any], value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        context(dags[REVERT].tasks[0], {"to": value})
    if not isinstance(value, str):
        with pytest.raises(InvalidInput):
            RevertRequest(model="m", deploy_id="d", version=value)  # type: ignore[arg-type]


# The command line has the same names


BESIDE: Mapping[str, tuple[str, ...]] = {
    DEPLOY: ("deploy", "bake"),
    REVERT: ("revert",),
    DECIDE: ("canary",),
    "reconcile_triton": ("reconcile",),
    "gc_triton": ("gc",),
    RETRAIN: ("train_model", "gate", "deploy", "bake"),
    ON_ALIAS: (),
}
"""The commands that do what a DAG does; the first is its whole."""
NO_OPTION: Mapping[str, str] = {
    "options": "each of the trainer's options is one of the command line",
    "approval": "whoever types a command approves",
}
"""Params without an option of the command line, and why."""
NO_PARAM: Mapping[str, str] = {
    "help": "of the command line",
    "json": "of the command line",
    "quiet": "of the command line",
    "dry_run": "a run of Airflow is there to act",
    "reason": "of a deploy: its run's note says why",
    "models": "a run is about all",
    "deploy_id": "of a revert: it follows from the run",
    "experiment": "RETRAIN_EXPERIMENT",
    "golden_rows": "the default",
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "repository": "TRITON_DEPLOY_REPOSITORY",
    "triton": "TRITON_DEPLOY_GRPC_URLS",
    "verbose": "the log of the task",
}
"""Options of the command line without a param, and why."""


def commands() -> dict[str, argparse.ArgumentParser]:
    return {
        **subcommands(cli.build_parser()),
        "train_model": train_model._parser(None),
        "gate": gate._parser(),
    }


def names(parser: argparse.ArgumentParser) -> set[str]:
    """Return what a command takes, as a param would be called: the first name of each option, and the positional arguments."""
    first = [
        action.option_strings[-1 if action.dest == "help" else 0] if action.option_strings else action.dest
        for action in parser._actions
    ]
    return {name.removeprefix("--").replace("-", "_") for name in first}


@pytest.mark.parametrize("name", ALL)
def test_a_param_and_an_option_for_the_same_thing_have_the_same_name(
    dags: Mapping[str, Any], name: str
) -> None:
    options = {command: names(parser) for command, parser in commands().items()}
    params = set(dags[name].params)
    beside = set().union(*(options[command] for command in BESIDE[name]))
    assert {param for param in params - beside if param not in NO_OPTION} == set()
    if BESIDE[name]:
        assert {option for option in options[BESIDE[name][0]] - params if option not in NO_PARAM} == set()


def test_the_names_of_earlier_times_are_still_taken() -> None:
    parser = cli.build_parser()
    assert parser.parse_args(["deploy", "m", "--shadow", "5"]).shadow == 5
    assert parser.parse_args(["bake", "m", "--minutes", "2"]).minutes == 2


def test_other_names_are_those_of_params_that_are_there(dags: Mapping[str, Any]) -> None:
    assert set(OTHER_NAMES) == {param for dag in dags.values() for param in dag.params}
    others = [other for names in OTHER_NAMES.values() for other in names]
    assert len(others) == len(set(others))
