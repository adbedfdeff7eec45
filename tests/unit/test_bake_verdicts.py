"""What the rules of the bake come to on simulated traffic: good releases stay, bad ones go. docs/bake.md shows the whole table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bench.bake_verdicts import (
    BAD_LOOKS,
    LIMITS,
    LOOKS,
    SEED,
    WINDOW_LOOKS,
    Cell,
    Numbers,
    Outcome,
    _whole,
    cells,
    ends,
    simulated,
    traffic,
    wrong,
)
from ml_code.triton_deploy.rules.bake_rules import (
    Course,
    Figures,
    Look,
    Reading,
    course,
    failing,
    is_enough,
    is_fresh,
)
from ml_code.triton_deploy.rules.failure_evidence import Counts

TABLE = Path(__file__).parents[2] / "docs/bake.json"


def looked(requests: Numbers, failures: Numbers, before: Counts | None, clients: int, fresh: Counts) -> Look:
    """Look at parts of one run, by the rules themselves."""
    total, failed = float(requests.sum()), float(failures.sum())
    hit = np.round(clients * (1 - (1 - 1 / clients) ** failed)) if clients > 1 else min(failed, 1)
    now = Figures(requests=total, failures=failed, latency_s=None, clients=clients, clients_failed=float(hit))
    other = (
        None
        if before is None
        else Figures(requests=before.requests, failures=before.failures, latency_s=None)
    )
    parts = tuple(
        Counts(requests=float(n), failures=float(f)) for n, f in zip(requests, failures, strict=True)
    )
    reading = Reading(source="simulated", now=now, before=other, parts=parts, fresh=fresh)
    if not is_enough(reading, LIMITS):
        return Look()
    bad = tuple(failing(reading, LIMITS))
    return Look(judged=True, bad=bad, stale=bool(bad) and not is_fresh(reading, LIMITS))


def end_by_rules(requests: Numbers, failures: Numbers, before: Counts | None, clients: int) -> int:
    """Return after how many looks the rules take one run back; 0 if they keep it."""
    looks: list[Look] = []
    for number in range(1, LOOKS + 1):
        window = slice(max(0, number - WINDOW_LOOKS), number)
        fresh = Counts(requests=float(requests[number - 1]), failures=float(failures[number - 1]))
        look = looked(requests[window], failures[window], before, clients, fresh)
        if not look.judged or number in (*range(1, WINDOW_LOOKS + 1), LOOKS):
            whole_n, whole_f = _whole(requests[None, :number], failures[None, :number])
            look = looked(whole_n[0], whole_f[0], before, clients, fresh)
        looks.append(look)
        stands = course(looks, bad_looks=BAD_LOOKS, over=number == LOOKS, patience=4)
        if stands is Course.FAILED:
            return number
    return 0


@pytest.mark.parametrize("bursty", [False, True])
@pytest.mark.parametrize("before_rate", [None, 0.001])
@pytest.mark.parametrize("clients", [1, 50])
def test_the_simulation_judges_as_the_rules_do(bursty: bool, before_rate: float | None, clients: int) -> None:
    runs, random = 8, np.random.default_rng(1)
    kept = 0
    for often, rate in ((0.5, 0.05), (1, 0.02), (10, 0.01), (10, 0.05)):
        cell = Cell(rate=rate, requests_per_s=often, bursty=bursty, clients=clients, before=before_rate)
        requests, failures = traffic(random, cell, rate, runs)
        before = None
        if before_rate is not None:
            n, f = traffic(random, cell, before_rate, runs)
            before = n.sum(1), f.sum(1)
        many = ends(requests, failures, before, clients)
        kept += int((many == 0).sum())
        for run in range(runs):
            other = None if before is None else Counts(requests=before[0][run], failures=before[1][run])
            assert end_by_rules(requests[run], failures[run], other, clients) == many[run]
    assert 0 < kept < 4 * runs, "both verdicts were compared"


@pytest.mark.parametrize("before", [None, 0.001])
@pytest.mark.parametrize(
    ("rate", "often", "bursty"),
    [
        (0.001, 10, True),
        (0.005, 1, False),
        (0.005, 10, False),
        (0.05, 10, False),
        (0.1, 1, False),
        (0.1, 10, True),
    ],
)
def test_good_releases_are_kept_and_bad_ones_taken_back(
    rate: float, often: float, bursty: bool, before: float | None
) -> None:
    cell = Cell(rate=rate, requests_per_s=often, bursty=bursty, clients=50, before=before)
    outcome = simulated(cell, 1000, SEED)
    share = 1 - outcome.taken_back if rate >= 0.05 else outcome.taken_back
    assert share <= 0.01, outcome


def test_a_service_of_which_three_percent_of_the_inputs_are_bad_can_release() -> None:
    cell = Cell(rate=0.03, requests_per_s=10, bursty=False, clients=50, before=0.03)
    assert simulated(cell, 1000, SEED).taken_back <= 0.01


def test_what_fails_ten_of_a_hundred_is_taken_back_within_two_minutes() -> None:
    seconds = simulated(
        Cell(rate=0.1, requests_per_s=10, bursty=False, clients=50, before=None), 500, SEED
    ).seconds
    assert seconds is not None
    assert seconds <= 120


def test_the_table_of_the_documents_is_of_these_kinds_and_has_no_wrong_verdicts() -> None:
    known = {
        json.dumps({key: row[key] for key in asdict(cell)}): row
        for row in json.loads(TABLE.read_text(encoding="utf-8"))["cells"]
        for cell in [next(cells())]
    }
    expected = list(cells())
    assert set(known) == {json.dumps(asdict(cell)) for cell in expected}
    for cell in expected:
        row = known[json.dumps(asdict(cell))]
        assert not wrong(cell, Outcome(taken_back=row["taken_back"], seconds=row["seconds"])), row
