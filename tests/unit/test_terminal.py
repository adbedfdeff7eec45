"""What a command prints, in each situation that people meet: on terminals of 80 and 60 columns, and in a pipe.

The golden files are in tests/data/terminal; tests/support/golden.py says how they are written.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from ml_code.triton_deploy.cli import (
    deploy_commands,
    set_up_commands,
    status_commands,
    terminal,
    upkeep_commands,
)
from ml_code.triton_deploy.cli.deploy_commands import _passed_over, _planned
from ml_code.triton_deploy.cli.show import show
from ml_code.triton_deploy.cli.told import Table, Told, Tone
from ml_code.triton_deploy.deploy.dry_run import Plan
from ml_code.triton_deploy.doctor import DoctorVerdict, Finding
from ml_code.triton_deploy.errors import SchemaChanged, Unavailable
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.standing import Notice
from ml_code.triton_deploy.upkeep.gc import Collected, Removed
from ml_code.triton_deploy.upkeep.reconcile import Reconciled
from ml_code.triton_deploy.upkeep.status import ModelStatus
from tests.support.golden import WIDTHS, compare, drawn

WRONG = (
    "In the staging Triton: The candidate answers wrongly: output label is off by up to 1, more than rtol 0.0001 and atol 1e-05 "
    "allow. Compare the model with what was trained; the quarantined directory holds it."
)


def release(generation: int, version: int, actor: str, reason: str = "") -> Release:
    return Release(
        model="best_model",
        generation=generation,
        active_version=version,
        run_id="3150d2e968f34a8bac244f8ea43e8673",
        alias="A",
        digest="0" * 64,
        previous_version=None,
        warm_versions=(),
        deploy_id=f"deploy-{generation}",
        actor=actor,
        updated_at_utc=f"2026-11-0{generation}T13:32:10.850Z",
        reason=reason,
    )


LIVE = release(4, 2, "root@host", "version 3 finds too many positives")


def statuses(*states: ModelStatus) -> Told:
    return Told.in_sections([], [status_commands._section(state) for state in states])


def status_of_a_failed_deploy() -> Told:
    notice = (
        "Alias A of best_model names version 3 in MLflow, and version 2 serves. Version 3 failed and is in quarantine. Set the alias "
        "back to version 2, or register a repaired version and set it to that."
    )
    return statuses(
        ModelStatus(
            model="best_model",
            live=LIVE,
            serving={"triton-1:8001": 2, "triton-2:8001": 2},
            unfinished=None,
            quarantined={
                "3.failed_20261103T132839": {"step": "load", "error": WRONG, "blames_artifact": True}
            },
            notices=(Notice("alias_drift", notice),),
            verdict="passed its bake: gateway saw 401 requests",
        )
    )


def status_of_a_triton_that_disagrees() -> Told:
    problem = "The record of deployment ci-42 can't be read: restore releases/4.json from a backup."
    return statuses(
        ModelStatus(
            model="best_model",
            live=LIVE,
            serving={
                "triton-1:8001": 2,
                "triton-2:8001": 1,
                "triton-3:8001": "can't be reached: connection refused",
            },
            unfinished=None,
            quarantined={},
            problems=(problem,),
        ),
        ModelStatus(
            model="other_model", live=None, serving={"triton-1:8001": None}, unfinished=None, quarantined={}
        ),
    )


VERDICTS = {4: "without a verdict: no source saw a request", 2: "failed its bake: 12 of 100 requests failed"}


def history() -> Told:
    releases = [
        release(4, 1, "root@host", "version 2 finds too many positives"),
        release(3, 2, "airflow:alias__best_model__A__v2__1edae9ce-754f-4f47-a466-eb1ab7df1bac"),
        release(
            2,
            12,
            "airflow:manual__2026-11-02T13:23:10.547495+00:00",
            "a reason with [brackets] and \x1b[31mcolours",
        ),
        release(1, 1, "ada@trainer"),
    ]
    folder: Any = SimpleNamespace(model="best_model")
    table = status_commands._history_table(folder, releases)
    return Told([], status_commands._history_lines(folder, releases), drawing=[table])


def doctor() -> Told:
    mlflow = "MLflow at http://127.0.0.1:1 can't be reached: Failed to establish a new connection: [Errno 111] Connection refused."
    findings = [
        Finding(check="settings", verdict=DoctorVerdict.OK, what="Every variable that is set can be used."),
        Finding(
            check="MLflow",
            verdict=DoctorVerdict.FAILED,
            what=mlflow,
            fix="Check that it runs and that MLFLOW_TRACKING_URI is right.",
        ),
        Finding(
            check="artifacts", verdict=DoctorVerdict.UNKNOWN, what="Unknown: see MLflow, above.", see="MLflow"
        ),
        Finding(
            check="clocks", verdict=DoctorVerdict.UNKNOWN, what="Unknown: see MLflow, above.", see="MLflow"
        ),
        Finding(
            check="Triton",
            verdict=DoctorVerdict.WARNING,
            what="NVIDIA's image of Triton 2.51.0 has ONNX Runtime 1.19, which takes ONNX opset 21; the settings let 26 through.",
            fix="Set TRITON_DEPLOY_MAX_OPSET=21.",
        ),
    ]
    return set_up_commands.examined(findings)


def garbage() -> Told:
    found = Collected(
        model="best_model",
        live=2,
        removed=(
            Removed(
                kind=cast("Any", "version"),
                name="7",
                size_bytes=13_600_000,
                why="no release of the last 10 has it",
            ),
            Removed(
                kind=cast("Any", "quarantine"),
                name="3.failed_20261103T132839",
                size_bytes=4_700,
                why="older than 30 days",
            ),
        ),
    )
    return Told.in_sections([], [upkeep_commands._collected(found, dry_run=True)])


def reconciled() -> Told:
    found = Reconciled(
        model="best_model",
        live=2,
        done=("Triton at triton-2:8001 serves version 2 again",),
        problems=(
            "Triton at triton-3:8001 can't be reached: connection refused. It is brought along at the next reconcile.",
        ),
    )
    return Told.in_sections([], [upkeep_commands._reconciled(found, dry_run=False)])


def refused_dry_run() -> Told:
    plan = Plan(
        model="best_model",
        serves="version 2 of best_model is live (generation 4).",
        does=(
            "bring version 3 into the repository (13600000 bytes)",
            "load it beside version 2, and compare its answers",
        ),
        obstacles=(
            SchemaChanged(
                "Clients of version 2 would break: input features FP32[-1, 30] is FP32[-1, 31] now.",
                hint="Change the clients first, then deploy with --allow-schema-change.",
            ),
        ),
        facts={"version": 3, "run_id": "3150d2e968f34a8bac244f8ea43e8673", "warm": [2, 1]},
    )
    return _planned(plan)


def live_at_last() -> Told:
    away: Any = SimpleNamespace(
        away={"triton-2:8001": "Triton at triton-2:8001 can't be reached: connection refused."}
    )
    return Told(
        {},
        ("Version 3 of best_model is live (deployment cli-6b3f6e0d2c27)." + _passed_over(away)).split("\n"),
    )


SITUATIONS: dict[str, Callable[[], Told]] = {
    "status: a deploy failed": status_of_a_failed_deploy,
    "status: a Triton disagrees": status_of_a_triton_that_disagrees,
    "history": history,
    "doctor: MLflow is away": doctor,
    "gc --dry-run": garbage,
    "reconcile: a Triton is away": reconciled,
    "deploy --dry-run: refused": refused_dry_run,
    "deploy: live, and a Triton was passed over": live_at_last,
}


def steps(on: Console, *, fails: bool) -> terminal.LiveSteps:
    shown = terminal.LiveSteps(on)
    for name, took_s in {"materialize": 1.04, "load": 2.5, "ready": 0.02}.items():
        shown.begin_or_end(name, None)
        if name == "materialize":
            shown.transferred(4_700_000, 13_600_000)
            shown.transferred(13_600_000, 13_600_000)
        shown.begin_or_end(name, took_s)
    shown.begin_or_end("smoke", None)
    if not fails:
        shown.begin_or_end("smoke", 0.31)
        return shown
    with pytest.raises(Unavailable), shown.shown():
        raise Unavailable("gone", hint="")
    return shown


def printed(result: Told, monkeypatch: pytest.MonkeyPatch) -> str:
    text = io.StringIO()
    monkeypatch.setattr("sys.stdout", text)
    show(result, as_json=False)
    return text.getvalue()


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_result_is_readable_on_each_terminal_and_plain_in_a_pipe(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = SITUATIONS[name]
    if make is history:
        monkeypatch.setattr(
            status_commands, "in_lines", lambda folder, of: (VERDICTS.get(of.generation, ""), "")
        )

    def draw(on: Console) -> None:
        result = make()
        terminal.draw(result.lines if result.drawing is None else result.drawing, on)

    shown = {f"{width} columns": drawn(draw, width) for width in WIDTHS}
    for width in WIDTHS:
        assert max(map(len, shown[f"{width} columns"].splitlines())) <= width
    compare(name, shown | {"pipe": printed(make(), monkeypatch)})


@pytest.mark.parametrize("fails", [False, True], ids=["deploy: its steps", "deploy: a step fails"])
def test_each_step_is_a_line_with_its_time(fails: bool, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    quiet = Console(file=io.StringIO())

    def draw(on: Console) -> None:
        on.print(steps(quiet, fails=fails).drawing())

    compare(name, {f"{width} columns": drawn(draw, width) for width in WIDTHS})


def test_the_bar_of_a_transfer_ends_with_its_step() -> None:
    shown = terminal.LiveSteps(Console(file=io.StringIO()))
    shown.begin_or_end("materialize", None)
    shown.transferred(13, 13)
    (task,) = shown._progress.tasks
    assert not task.finished, "the files are checked and synced after the last byte"
    shown.begin_or_end("materialize", 1.0)
    assert task.finished
    assert task.percentage == 100


class GoneTerminal(io.StringIO):
    """A terminal that is closed while a deploy runs."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_a_terminal_that_is_gone_ends_no_deploy(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = GoneTerminal()
    monkeypatch.setattr("sys.stderr", gone)
    monkeypatch.setenv("TERM", "xterm")
    with deploy_commands._live_steps() as hooks:
        hooks.on_step("materialize", None)
        gone.gone = True
        hooks.report(4, 13)
        hooks.on_step("materialize", 1.0)
        hooks.on_step("load", None)
        print("version 3 answers as expected", file=sys.stderr)
        hooks.on_step("load", 0.1)
    assert "materialize" in gone.getvalue()


def test_an_error_says_what_to_do_and_what_is_still_true() -> None:
    rest = [
        (
            "What to do",
            "Set TRITON_DEPLOY_REPOSITORY to the folder that is shared with Triton, and mount it on every worker.",
        ),
        ("Still true", "version 2 of best_model is live (generation 4)."),
    ]
    message = "The model repository /models is not a folder on this machine."
    compare(
        "an error", {f"{w} columns": drawn(lambda on: terminal.say_why(message, rest, on), w) for w in WIDTHS}
    )


def test_the_rows_before_one_that_cannot_be_read_are_drawn() -> None:
    def rows() -> Any:
        yield (("4", Tone.PLAIN),)
        raise Unavailable("record 3 can't be read", hint="")

    text = io.StringIO()
    with pytest.raises(Unavailable):
        terminal.draw([Table(("#",), rows(), after="more")], Console(file=text, width=80))
    assert text.getvalue().split() == ["#", "4"]


def test_no_color_is_respected_and_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def codes() -> str:
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, color_system="standard", width=80)
        terminal.draw(status_of_a_failed_deploy().drawing or [], console)
        return text.getvalue()

    assert "\x1b[32m" in codes()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in codes()
