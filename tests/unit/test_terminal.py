"""What a command prints, in each situation that people meet: on terminals of 80 and 60 columns, and in a pipe.

The golden files are in tests/data/terminal; tests/support/golden.py says how they are written.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import re
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.cli import (
    deploy_commands,
    logs,
    status_commands,
    terminal,
)
from ml_code.triton_deploy.cli.show import show
from ml_code.triton_deploy.cli.told import Table, Told, Tone
from ml_code.triton_deploy.errors import ArtifactRejected, Unavailable
from tests.support.golden import WIDTHS, compare, drawn
from tests.support.situations import SITUATIONS, VERDICTS, history, status_of_a_failed_deploy
from tests.support.world import World


def steps(on: Console, *, fails: bool) -> terminal.LiveSteps:
    shown = terminal.LiveSteps(on)
    with contextlib.suppress(Unavailable), shown.shown():
        for name, took_s in {"materialize": 1.04, "load": 2.5, "ready": 0.02}.items():
            shown.begin_or_end(name, None)
            if name == "materialize":
                shown.transferred(4_700_000, 13_600_000)
                shown.transferred(13_600_000, 13_600_000)
            shown.begin_or_end(name, took_s)
        shown.begin_or_end("smoke", None)
        if fails:
            raise Unavailable("gone", hint="")
        shown.begin_or_end("smoke", 0.31)
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


@pytest.mark.parametrize("encoding", ["latin-1", "euc-kr"])
def test_a_terminal_without_the_signs_gets_letters(encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    on = Console(file=stream, width=80, force_terminal=True, color_system=None)
    for fails in (False, True):
        on.print(steps(on, fails=fails).drawing())
    stream.flush()
    shown = written.getvalue().decode(encoding)
    assert re.search(r"^\+ load +2\.5 s", shown, re.MULTILINE)
    assert re.search(r"^x smoke +failed", shown, re.MULTILINE)


def test_the_bar_of_a_transfer_ends_with_its_step() -> None:
    shown = terminal.LiveSteps(Console(file=io.StringIO()))
    with shown.shown():
        shown.begin_or_end("materialize", None)
        shown.transferred(13_309, 13_309)
        (task,) = shown._progress.tasks
        assert not task.finished, "the files are checked and synced after the last byte"
        assert task.fields["note"] == "13.3 kB of 13.3 kB"
        shown.begin_or_end("materialize", 1.0)
    assert task.finished
    assert task.percentage == 100


def test_nothing_is_drawn_while_a_deploy_waits_for_its_alias() -> None:
    text = io.StringIO()
    shown = terminal.LiveSteps(Console(file=text, force_terminal=True, width=80))
    with shown.shown():
        time.sleep(0.3)  # the drawing is refreshed ten times a second
    assert text.getvalue() == ""


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


def test_an_error_says_what_to_do_and_what_is_still_true(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [
        (
            "What to do",
            "Set TRITON_DEPLOY_REPOSITORY to the folder that is shared with Triton, and mount it on every worker.",
        ),
        ("Still true", "version 2 of best_model is live (generation 4)."),
    ]
    message = "The model repository /models is not a folder on this machine."
    shown = {f"{w} columns": drawn(lambda on: terminal.say_why(message, rest, on), w) for w in WIDTHS}
    options = argparse.Namespace(json=False)
    monkeypatch.setattr(cli, "_still_true", lambda _: [rest[1][1]])
    cli._say_why(options, "misconfigured", message, rest[0][1])
    compare("an error", shown | {"pipe": capsys.readouterr().err})


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


def test_a_terminal_shows_the_error_of_a_step_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.register_times(1)
    with caplog.at_level("INFO"), pytest.raises(ArtifactRejected):
        world.deployer(transfer__max_artifact_bytes=10).deploy(world.request())
    (failed,) = [record for record in caplog.records if "materialize failed" in record.getMessage()]
    written = GoneTerminal()
    monkeypatch.setattr("sys.stderr", written)
    output = logs.handler(verbose=False)
    output.handle(failed)
    assert written.getvalue() == "", "the command ends with it"
    logs.handler(verbose=True).handle(failed)
    assert "materialize failed" in written.getvalue()
