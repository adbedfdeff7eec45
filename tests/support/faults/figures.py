"""What the long runs measure: a JSON line each, and ``docs/reliability.json``, from which the table in the documents is made."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_code.triton_deploy.repository.durable import replace_file

FILE = Path(__file__).parents[3] / "docs/reliability.json"


def say(section: str, name: str, figures: Mapping[str, Any]) -> None:
    """Print one figure as a line of JSON."""
    print(json.dumps({"section": section, "name": name, **figures}))


def record(section: str, name: str, figures: Mapping[str, Any], file: Path = FILE) -> None:
    """Print one figure, and keep it in place of what an earlier run measured under that name.

    Args:
        section: top-level key of the file: what was done to the system.
        name: key in the section.
        figures: what was counted or measured, with units in the names.
        file: where figures are kept.
    """
    say(section, name, figures)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        # Workers of pytest-xdist measure at the same time.
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = json.loads(file.read_text()) if file.exists() else {}
        known.setdefault(section, {})[name] = dict(figures)
        replace_file(file, json.dumps(known, indent=2, sort_keys=True) + "\n")
    finally:
        os.close(folder)
