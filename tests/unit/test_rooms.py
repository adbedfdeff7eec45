"""The rooms of the tests: what they share lies in tests/support, and every group of tests is there."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.spreading import GROUPS

TESTS = Path(__file__).resolve().parents[1]


def test_no_test_module_imports_from_another() -> None:
    found = []
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [name.name for name in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            parts = {part for name in (module, *names) for part in name.split(".")}
            found += [f"{path}: {part}" for part in parts if part.startswith("test_") or part == "conftest"]
    assert found == [], "move what they share to tests/support"


def test_every_place_that_a_group_names_is_there() -> None:
    assert [place for places in GROUPS.values() for place in places if not (TESTS / place).exists()] == []
