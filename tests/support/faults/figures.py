"""Figures of the long runs: a JSON line each, and ``docs/reliability.json``, from which the documents' tables are made."""

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
    """Print one figure, and keep it in place of an earlier run's figure of that name.

    Args:
        section: top-level key of the file: the kind of fault.
        name: key in the section.
        figures: counts and measurements, with units in the names.
        file: file of the figures.
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
