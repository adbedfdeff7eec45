"""docs/tutorial.md, read from top to bottom by a reader who types what it says: on a stack of its own, as `make up` starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.ports import free_ports, setting
from tests.support.servers.debian_packages import REPOSITORY
from tests.support.servers.prometheus_server import program
from tests.support.tutorial import Reader, blocks

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is to the commands what a checkout is after `make up`: with ``.stack/env`` and ``.venv``."""
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    ports = {setting(name): str(port) for name, port in free_ports().items()}
    path = f"{program('prometheus').parent}:{os.environ['PATH']}"
    argv = [sys.executable, "-m", "stack", "up", "--state-dir", str(tmp_path / ".stack")]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, **ports, "PATH": path}
    ) as up:
        assert up.stdout is not None
        printed = []
        for line in up.stdout:
            printed.append(line)
            if "Ctrl-C stops everything" in line:
                break
        assert up.poll() is None, "".join(printed)
        yield tmp_path
        up.send_signal(signal.SIGINT)
        assert up.stdout.read().endswith("stopped\n")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_tutorial_does_what_it_says(folder: Path) -> None:
    reader = Reader(folder, {})
    try:
        for block in blocks(REPOSITORY / "docs/tutorial.md", "tutorial"):
            reader.follow(block)
    finally:
        reader.stop()
