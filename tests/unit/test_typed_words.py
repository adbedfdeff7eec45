"""What is typed: misspelt words, flags, completion, and the help of every command of this project."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_code import train_model
from ml_code.alias_events import cli as alias_events
from ml_code.gate import __main__ as gate
from ml_code.gateway import cli as gateway
from ml_code.triton_deploy import cli
from ml_code.triton_deploy.settings.help_text import wrapped
from ml_code.triton_deploy.settings.version import installed
from tests.support.golden import WIDTHS, compare


@pytest.mark.parametrize(
    "argv", [[], ["deploy", "--help"], ["doctor", "--help"]], ids=["help", "deploy help", "doctor help"]
)
def test_help_fits_the_terminal(
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    shown = {}
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        if argv:
            with pytest.raises(SystemExit) as end:
                cli.main(argv)
            assert end.value.code == 0
        else:
            assert cli.main(argv) == 0
        shown[f"{width} columns"] = capsys.readouterr().out
        assert max(map(len, shown[f"{width} columns"].splitlines())) <= width
    compare(request.node.callspec.id, shown)


@pytest.mark.parametrize("main", [gateway.main, alias_events.main], ids=["triton-gateway", "triton-events"])
def test_the_services_say_their_version_and_their_help_fits(
    main: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for argument in ("--help", "--version"):
        with pytest.raises(SystemExit) as end:
            main([argument])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 80
    assert said == f"{request.node.callspec.id} {installed()}\n"


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["statsu"], "status"),
        (["deploy", "m", "--dryrun"], "--dry-run"),
        (["canary", "promot", "m"], "promote"),
        (["completion", "bsh"], "bash"),
        (["deploy", "m", "extra", "--alais", "A", "--xyzzy"], "--alias"),
        (["--verison"], "--version"),
        (["status", "m", "--dryrun"], ""),  # status has no --dry-run
        (["xyzzy"], ""),
    ],
)
def test_a_misspelt_word_is_answered_with_the_one_that_is_meant(
    argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.rstrip().endswith(f"Did you mean {meant}?") if meant else "Did you mean" not in said


@pytest.mark.parametrize(
    ("main", "argv", "meant"),
    [
        (alias_events.main, ["srve"], "serve"),
        (gateway.main, ["--hlep"], "--help"),
        (gate.main, ["m", "3", "--dryrun"], "--dry-run"),
    ],
    ids=["triton-events", "triton-gateway", "gate"],
)
def test_the_other_commands_name_the_word_that_is_meant_too(
    main: Callable[[list[str]], int], argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(f"Did you mean {meant}?")


def test_triton_events_called_bare_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert alias_events.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: triton-events ")


NAMES = next(
    each for each in cli.build_parser()._actions if isinstance(each, argparse._SubParsersAction)
).choices
COMMANDS = [
    *((cli.main, [name]) for name in NAMES),
    (cli.main, []),
    (alias_events.main, []),
    (alias_events.main, ["serve"]),
    (alias_events.main, ["register"]),
    (gateway.main, []),
    (gate.main, []),
    (train_model.main, []),
]


@pytest.mark.parametrize(("main", "command"), COMMANDS)
def test_every_help_has_an_example_and_fits_the_terminal(
    main: Callable[[list[str]], int],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as end:
            main([*command, "--help"])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert re.search("^examples?:$", said, re.MULTILINE)
        assert max(map(len, said.splitlines())) <= width


def test_a_terminal_without_a_letter_gets_its_code() -> None:
    program = "import sys; from ml_code.triton_deploy.cli import program; sys.exit(program())"
    run = subprocess.run(
        [sys.executable, "-c", program, "deploy", "--help"],
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert rb"HOST:PORT,\u2026" in run.stdout


def test_a_flag_wins_over_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", "/nowhere")
    assert cli.main(["status", "--repository", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Nothing was deployed to this repository yet.\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "rollback" in script
    assert "--canary-minutes" in script


def test_a_long_example_is_what_a_shell_reads() -> None:
    example = '  triton-deploy revert best_model --to 12 --reason "version 13 finds too many positives"'
    lines = wrapped(example, 58)
    assert max(map(len, lines.split("\n"))) <= 58
    words = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {lines}"], text=True)
    assert words.splitlines() == shlex.split(example)
