"""How a command's process ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.cli import status_commands

LEAVING_A_THREAD = """
import atexit, os, sys, threading
from ml_code.triton_deploy import cli

def run(argv=None):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    print("said", end="")
    {end}

atexit.register(os._exit, 99)  # Python's own end
cli.main = run
sys.exit(cli.program())
"""


@pytest.mark.parametrize(("end", "code"), [("return 4", 4), ("sys.exit(143)", 143), ("sys.exit()", 0)])
def test_python_is_not_ended_below_a_thread_that_was_left_behind(end: str, code: int) -> None:
    program = LEAVING_A_THREAD.format(end=end)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (code, "said", "")


@pytest.mark.parametrize("gone", ["BrokenPipeError(32, 'gone')", "OSError(5, 'gone')"])
def test_a_reader_that_is_gone_is_no_traceback(gone: str) -> None:
    end = f"raise {gone}"
    run = subprocess.run(
        [sys.executable, "-c", LEAVING_A_THREAD.format(end=end).replace('print("said", end="")', "pass")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, "")


def test_ctrl_c_is_answered_with_what_serves_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(status_commands, "history", interrupted)
    monkeypatch.setattr(cli, "_still_true", lambda _: iter(["version 1 of scorer is live"]))
    assert cli.main(["history", "scorer"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err.splitlines() == [
        "Stopped by Ctrl-C.",
        "  What to do: Run the command again to have it done.",
        "  Still true: version 1 of scorer is live",
    ]
