"""docs/tutorial.md, read from top to bottom by a reader who types what it says: on a stack of its own, as `make up` starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.debian_packages import REPOSITORY
from tests.support.servers.prometheus_server import program
from tests.support.servers.whole_stack import whole_stack
from tests.support.tutorial import Reader, blocks

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is to the commands what a checkout is after `make up`: with ``.stack/env`` and ``.venv``."""
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    path = f"{program('prometheus').parent}:{os.environ['PATH']}"
    with whole_stack(tmp_path / ".stack", {"PATH": path}):
        yield tmp_path


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_tutorial_does_what_it_says(folder: Path) -> None:
    reader = Reader(folder, {})
    try:
        for block in blocks(REPOSITORY / "docs/tutorial.md", "tutorial"):
            reader.follow(block)
    finally:
        reader.stop()
