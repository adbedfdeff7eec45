"""What is claimed of the figures: each claim is of something measured, and one that is missed says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.claims import CLAIMS, Claim, table
from bench.series import Series, from_json

MEASURED = {
    "deploy": [
        Series(name="ours", unit="s", values=(1.0, 3.0, 2.0), counts={"failed": 0}),
        Series(name="naive", unit="s", values=(8.0, 8.0, 9.0), counts={"failed": 7}),
    ]
}


def claim(**changes: Any) -> Claim:
    return Claim(**{"what": "a deploy", "bench": "deploy", "series": "ours", **changes})


@pytest.mark.parametrize(
    ("changes", "figure", "unit"),
    [
        ({}, 2.0, "s"),
        ({"versus": "naive"}, 0.25, ""),
        ({"series": "naive", "less": "ours"}, 6.0, "s"),
        ({"series": "naive", "count": "failed"}, 7, ""),
    ],
    ids=["a median", "a ratio of medians", "a difference of medians", "a count"],
)
def test_a_figure_is(changes: dict[str, str], figure: float, unit: str) -> None:
    assert claim(**changes).figure(MEASURED) == figure
    assert claim(**changes).unit(MEASURED) == unit


@pytest.mark.parametrize(
    ("changes", "figure", "met"),
    [
        ({}, 1.0, None),
        ({"at_most": 1}, 1.0, True),
        ({"at_most": 1}, 1.004, True),
        ({"at_most": 1}, 1.006, False),
        ({"at_least": 1}, 0.9, False),
        ({"at_least": 1}, 1.1, True),
        ({"at_most": 0.35, "versus": "naive"}, 0.354, True),
        ({"at_most": 0.35, "versus": "naive"}, 0.356, False),
        ({"at_most": 0, "count": "failed"}, 1, False),
    ],
)
def test_an_aim_is_met_when_the_figure_that_is_shown_meets_it(
    changes: dict[str, Any], figure: float, met: bool | None
) -> None:
    assert claim(**changes).met(figure) is met


def test_the_table_says_what_was_missed_and_why() -> None:
    claims = [
        claim(versus="naive", beside="the naive way", at_most=0.5),
        claim(at_most=1.5, why="it is slow"),
        claim(series="naive", count="failed"),
    ]
    assert table(claims, MEASURED).splitlines()[2:] == [
        "| a deploy | 0.25 | the naive way | at most 0.5 |",
        "| a deploy | 2 s |  | at most 1.5: **missed**, it is slow |",
        "| a deploy | 7 |  |  |",
    ]


def test_what_was_not_measured_is_not_claimed() -> None:
    with pytest.raises(KeyError):
        claim(series="never").figure(MEASURED)


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: f"{one.what}, {one.count or one.versus}")
def test_what_is_claimed_was_measured_and_is_met_or_says_why_not(one: Claim) -> None:
    path = Path(__file__).resolve().parents[2] / "docs/performance.json"
    benches = json.loads(path.read_text(encoding="utf-8"))["benches"]
    figure = one.figure({name: from_json(series) for name, series in benches.items()})
    assert one.met(figure) is not False or one.why
