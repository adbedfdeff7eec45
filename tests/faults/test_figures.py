"""Figures of one run replace those of the last one, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.faults.figures import record


def test_a_figure_replaces_its_own_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    record("traffic", "swaps", {"failed": 1, "old": 1}, file)
    record("traffic", "others", {"failed": 2}, file)
    record("crashes", "swaps", {"failed": 3}, file)
    record("traffic", "swaps", {"failed": 0}, file)
    assert json.loads(file.read_text()) == {
        "crashes": {"swaps": {"failed": 3}},
        "traffic": {"others": {"failed": 2}, "swaps": {"failed": 0}},
    }
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"section": "traffic", "name": "swaps", "failed": 0}
