"""Modules that are imported when a test first uses them: a worker collects every test and runs some of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any


def lazily(name: str) -> Callable[[], Any]:
    """Return a function that imports and returns a module, for a module whose import takes seconds."""
    return partial(import_module, name)
