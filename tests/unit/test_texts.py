"""Texts that others chose: what they may do to a terminal, a log and a chat."""

from __future__ import annotations

import io
import json
import logging

import pytest

from ml_code.triton_deploy.cli import main
from ml_code.triton_deploy.errors import ArtifactRejected, DeployError
from ml_code.triton_deploy.errors.texts import OneLine, excerpt, for_chat, printable
from tests.support.world import MODEL, World

HOSTILE = {
    "escape": "a\x1b[2J\x1b]0;title\x07b",
    "C1": "a\x9b2Jb",
    "carriage return": "all is well\rERROR",
    "line": "x\n2026-01-01 INFO deployed",
    "other lines": "a\x0b\x0c\x85\u2028\u2029b",
    "backspace": "bad\b\b\bgood",
    "direction": "user\u202egnp.exe\u2066\u2069\u200f",
    "invisible": "a\u200bb\ufeffc\u00ad",
    "lone surrogate": "a\ud800b",
    "nothing": "\0",
    "private": "\ue000\U000f0000",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_hostile_is_left_and_nothing_is_lost(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode()
    assert len(shown) >= len(text)


def test_what_can_be_read_stays() -> None:
    assert printable("Größe → 数 🙂") == "Größe → 数 🙂"
    assert printable("a\x1bb\nc\ud800") == r"a\x1bb c\ud800"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_error_is_one_printable_line(text: str) -> None:
    error = ArtifactRejected(f"input {text!s} is missing", hint=f"Log {text}.")
    for told in (error.message, error.hint, str(error), error.args[0]):
        assert told.isprintable()
    assert isinstance(error, DeployError)


def test_a_long_text_is_cut_and_says_so() -> None:
    assert excerpt("abc", 3) == "abc"
    assert excerpt("abcd", 3) == "abc…"
    assert excerpt("\x1b" * 1_000_000, 2) == r"\x1b\x1b…"


def test_a_chat_gets_no_commands() -> None:
    assert for_chat("<!channel> a & b <https://evil|approve>\x1b") == (
        r"&lt;!channel&gt; a &amp; b &lt;https://evil|approve&gt;\x1b"
    )


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_log_has_a_line_for_each_event(text: str) -> None:
    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(OneLine("%(levelname)s %(message)s"))
    log = logging.Logger("test_texts")
    log.addHandler(output)
    log.warning("input %s is not used", text)
    line = stream.getvalue()
    assert line.endswith(" is not used\n")
    assert line[:-1].isprintable()


def test_a_traceback_keeps_its_lines() -> None:
    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(OneLine("%(message)s"))
    log = logging.Logger("test_texts")
    log.addHandler(output)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    assert stream.getvalue().startswith("failed\nTraceback (most recent call last):\n")


def test_history_shows_the_reasons_of_others_in_their_line(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    world.register_times(1)
    world.deploy("d1")
    (release,) = (world.root / MODEL / "releases").glob("*.json")
    written = json.loads(release.read_text())
    release.chmod(0o644)
    # As an earlier version of the deployer, which refused nothing, has taken it.
    release.write_text(json.dumps(written | {"reason": "\x1b[2J\nall is well\u202e"}))
    assert main(["history", MODEL]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(r"\x1b[2J all is well\u202e")
