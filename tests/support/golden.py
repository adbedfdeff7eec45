"""Golden files of what a command prints on terminals of some widths, and in a pipe: tests/data/terminal.

``GOLDEN=write .venv/bin/pytest tests/unit/test_terminal.py tests/unit/test_typed_words.py`` writes them anew: read them then.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

GOLDEN = Path(__file__).resolve().parents[1] / "data/terminal"
WIDTHS = (80, 60)
"""Columns of the terminals."""


def drawn(draw: Callable[[Console], object], width: int) -> str:
    """Return what is drawn on a terminal of a width."""
    text = io.StringIO()
    draw(
        Console(file=text, width=width, force_terminal=True, color_system=None, highlight=False, markup=False)
    )
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def compare(name: str, parts: dict[str, str]) -> None:
    """Fail unless the golden file of a situation has these parts."""
    text = "".join(f"=== {part}\n{shown}" for part, shown in parts.items())
    path = GOLDEN / f"{'-'.join(re.findall(r'[a-zA-Z]+', name)).lower()}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"GOLDEN=write writes {path.name}"
