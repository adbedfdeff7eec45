"""Waits for a change that a server or a thread makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def await_value(look: Callable[[], T | None], what: str, limit_s: float = 30, pause_s: float = 0.1) -> T:
    """Return the result of ``look`` as soon as it is not None; AssertionError after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}"
        time.sleep(pause_s)
    return found


def eventually(condition: Callable[[], bool], what: str = "what has to happen", limit_s: float = 30) -> None:
    """Wait for a condition."""
    await_value(lambda: condition() or None, what, limit_s, pause_s=0.05)
