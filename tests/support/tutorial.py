"""Reads the blocks of a document that a test runs, runs them, and compares their output with what the document shows.

A block is marked on the line before it: ``<!-- test: NAME -->``, or ``<!-- test: NAME, HOW -->`` with one of HOWS. The
``text`` block that follows is what it has to print: each line has to be there, in that order; "…" stands for anything, and a
line of "…" alone for any number of lines.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FIRST, AGAIN, BESIDE = "at the beginning of every block", "until it shows", "in a shell of its own"
HOWS = ("", FIRST, AGAIN, BESIDE)
BLOCK = re.compile(
    r"^<!-- test: (?P<name>[^,>]+?)(?:, (?P<how>[^>]+?))? -->\n```(?:sh|bash)\n(?P<command>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
LIMIT_S = 300
"""Longest that a block may run."""
AGAIN_S = 300
"""How long a block is repeated until it shows what the document says."""


@dataclass(frozen=True)
class Block:
    """A block of commands.

    Attributes:
        how: one of HOWS.
        command: its lines, for bash.
        shown: the lines that it has to print.
    """

    how: str
    command: str
    shown: tuple[str, ...]


def blocks(document: Path, name: str) -> list[Block]:
    """Return the blocks of a document that are marked with a name."""
    found = [match for match in BLOCK.finditer(document.read_text(encoding="utf-8")) if match["name"] == name]
    return [
        Block(match["how"] or "", match["command"], tuple((match["shown"] or "").splitlines()))
        for match in found
    ]


def missing(shown: tuple[str, ...], printed: str) -> str | None:
    """Return the first line of a document that was not printed after those before it; None if all were."""
    lines = iter(printed.splitlines())
    for wanted in shown:
        pattern = ".*".join(re.escape(part) for part in wanted.strip().split("…"))
        if wanted.strip() != "…" and not any(re.fullmatch(pattern, line.strip()) for line in lines):
            return wanted
    return None


class Reader:
    """Does what a document says, in one folder.

    Args:
        folder: the folder in which the commands run.
        environment: variables of every block.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._first = ""
        self._beside: list[subprocess.Popen[bytes]] = []

    def follow(self, block: Block) -> None:
        """Run a block; AssertionError if it does not print what the document shows."""
        if block.how == FIRST:
            self._first += block.command
        elif block.how == BESIDE:
            self._beside.append(self._started(block.command, stdout=subprocess.DEVNULL))
        else:
            deadline = time.monotonic() + (AGAIN_S if block.how == AGAIN else 0)
            while (line := missing(block.shown, printed := self._printed(block))) is not None:
                assert time.monotonic() < deadline, f"{block.command}\ndid not print: {line}\nbut:\n{printed}"
                time.sleep(1)

    def stop(self) -> None:
        """End the blocks that run beside the others."""
        for process in self._beside:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _printed(self, block: Block) -> str:
        process = self._started(block.command, stdout=subprocess.PIPE)
        return process.communicate(timeout=LIMIT_S)[0].decode()

    def _started(self, command: str, stdout: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-c", self._first + command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
