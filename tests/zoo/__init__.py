"""The zoo: models of every common origin, deployed, and asked in five ways what ONNX Runtime answers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.zoo.case import Case

GROUPS = ("sklearn_estimators", "sklearn_pipelines", "boosters", "pytorch", "made", "packages")
"""One module a group."""
SITE = Path(__file__).parents[2] / ".cache/zoo/site"
"""Where ``make zoo`` installs what only the zoo needs."""


def cases_of(group: str) -> list[Case]:
    """Return the cases of a group."""
    cases: list[Case] = _module(group).cases()
    return cases


def case_of(path: str) -> Case:
    """Return the case ``group/name``."""
    group, _, name = path.partition("/")
    module = _module(group)
    if hasattr(module, "case_named"):
        # To list all of its cases takes seconds.
        case: Case = module.case_named(name)
        return case
    return next(case for case in module.cases() if case.name == name)


def _module(group: str) -> ModuleType:
    # At the end: .venv has the versions that were tested of whatever is in both.
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))
    return importlib.import_module(f"tests.zoo.{group}")
