"""Simulates the verdicts of the bake on releases whose true failure rate is known, without servers.

    python -m bench.bake_verdicts --output docs/bake.json

A run is a bake of 15 minutes with the default settings: a check every 30 s over the last 120 s. The rules
are those of ``ml_code.triton_deploy.rules.bake_rules``, written again with arrays for many runs at once; a
test compares the verdicts of both.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_code.triton_deploy.rules import failure_evidence as bounds
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.watch.readings import PARTS

from . import markdown

Numbers = NDArray[np.float64]
Truths = NDArray[np.bool_]

LOOKS = 30
LOOK_S = 30.0
WINDOW_LOOKS = 4
BAD_LOOKS = 2
LIMITS = Limits()
BURST_S = 5.0
"""Length of a burst of failures, seconds."""
IN_BURST = 0.5
"""Share of the requests that fail in a burst."""

RATES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
REQUESTS_PER_S = (0.5, 1.0, 10.0, 100.0)
CLIENTS = (1, 50)
BEFORE = 0.001
"""Failure rate of the previous version, if there is one and the release fails more often."""
STEADY = 0.03
"""Failure rate of both versions, in the cells of the steady service."""
RUNS = 10_000
SEED = 19
GOOD, BAD = 0.005, 0.05
"""A release is good up to the first true rate, and bad from the second true rate on."""
ENOUGH = 3000
"""Fewest requests in a bake for which its verdict is checked; below, the table only shows the outcome."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of release.

    Attributes:
        rate: true share of its requests that fail.
        requests_per_s: requests a second of all clients.
        bursty: failures come in bursts, in which every second request fails; else failures are independent.
        clients: number of clients.
        before: true rate of the previous version; None if there is none.
    """

    rate: float
    requests_per_s: float
    bursty: bool
    clients: int
    before: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of many releases of one kind.

    Attributes:
        taken_back: share of the releases that the bake reverted.
        seconds: median time until the revert, seconds; None without a revert.
    """

    taken_back: float
    seconds: float | None


def cells() -> Iterator[Cell]:
    """Yield every kind of release in the table."""
    for rate, often, bursty, clients, compared in itertools.product(
        RATES, REQUESTS_PER_S, (False, True), CLIENTS, (False, True)
    ):
        before = min(rate, BEFORE) if compared else None
        yield Cell(rate=rate, requests_per_s=often, bursty=bursty, clients=clients, before=before)
    for often in REQUESTS_PER_S:
        yield Cell(rate=STEADY, requests_per_s=often, bursty=False, clients=50, before=STEADY)


def traffic(random: np.random.Generator, cell: Cell, rate: float, runs: int) -> tuple[Numbers, Numbers]:
    """Return the requests and the failures between two checks: two arrays (runs, checks)."""
    shape = (runs, LOOKS)
    if not cell.bursty:
        requests = random.poisson(cell.requests_per_s * LOOK_S, shape)
        return requests.astype(float), random.binomial(requests, rate).astype(float)
    bursting_s = _bursting_s(random, rate, shape)
    requests = random.poisson(cell.requests_per_s * bursting_s)
    quiet = random.poisson(cell.requests_per_s * (LOOK_S - bursting_s))
    return (requests + quiet).astype(float), random.binomial(requests, IN_BURST).astype(float)


def _bursting_s(random: np.random.Generator, rate: float, shape: tuple[int, int]) -> Numbers:
    """Return the seconds of bursts between two checks; a burst may lie on both sides of a check."""
    runs, looks = shape
    counts = random.poisson(rate / (IN_BURST * BURST_S) * looks * LOOK_S, runs)
    run = np.repeat(np.arange(runs), counts)
    begins = random.uniform(0, looks * LOOK_S, counts.sum())
    look = (begins / LOOK_S).astype(int)
    first = np.minimum(BURST_S, (look + 1) * LOOK_S - begins)
    found = np.zeros((runs, looks + 1))
    np.add.at(found, (run, look), first)
    np.add.at(found, (run, look + 1), BURST_S - first)
    return np.minimum(found[:, :looks], LOOK_S)


def ends(
    requests: Numbers, failures: Numbers, before: tuple[Numbers, Numbers] | None, clients: int
) -> NDArray[np.int64]:
    """Return the number of the check that reverted each run, from 1; 0 if the release was kept.

    Args:
        requests: requests between two checks, (runs, checks).
        failures: failures between two checks, (runs, checks).
        before: requests and failures of the previous version, (runs,) each; None if there is none.
        clients: number of clients; each sends the same share of the requests.
    """
    runs = len(requests)
    in_a_row, ended = np.zeros(runs, int), np.zeros(runs, np.int64)
    for number in range(1, LOOKS + 1):
        is_last = number == LOOKS
        bad = _is_bad(*_whole(requests[:, :number], failures[:, :number]), before, clients)
        if not is_last and number > WINDOW_LOOKS:
            window = slice(number - WINDOW_LOOKS, number)
            seen = requests[:, window].sum(1) >= LIMITS.min_requests
            recent = _is_bad(requests[:, window], failures[:, window], before, clients)
            bad = np.where(seen, recent, bad)
        fresh = _share(failures[:, number - 1], requests[:, number - 1]) > _limit(before)
        in_a_row = np.where(bad & fresh, in_a_row + 1, np.where(bad, in_a_row, 0))
        taken_back = bad if is_last else in_a_row >= BAD_LOOKS
        ended = np.where((ended == 0) & taken_back, number, ended)
    return ended


def _whole(requests: Numbers, failures: Numbers) -> tuple[Numbers, Numbers]:
    """Return the sums over the parts into which a check cuts the whole bake."""
    looks = requests.shape[1]
    edges = (np.arange(min(PARTS, looks)) * looks) // min(PARTS, looks)
    return np.add.reduceat(requests, edges, 1), np.add.reduceat(failures, edges, 1)


def _limit(before: tuple[Numbers, Numbers] | None) -> Numbers | float:
    if before is None:
        return LIMITS.max_failure_ratio
    return _share(before[1], before[0]) + LIMITS.max_failure_rise


def _is_bad(
    requests: Numbers, failures: Numbers, before: tuple[Numbers, Numbers] | None, clients: int
) -> Truths:
    """Return the runs that a check of these parts finds bad: ``rules.failing``."""
    total, failed = requests.sum(1), failures.sum(1)
    parts = np.maximum((requests > 0).sum(1), 1)
    effect = _effect(requests, failures, parts)
    rate = _share(failed, total)
    firm = bounds.FIRM + bounds.FIRM_OF_FEW / parts
    least = _wilson(failed / effect, total / effect, firm, -1)
    above = least > LIMITS.max_failure_ratio
    bad = above
    if before is not None:
        rises = []
        clear = bounds.CLEAR + bounds.CLEAR_OF_FEW / parts
        for sure, sure_of_other in ((firm, firm), (clear, bounds.CLEAR)):
            low = _wilson(failed / effect, total / effect, sure, -1)
            other = _share(before[1], before[0])
            most = _wilson(before[1] / effect, before[0] / effect, sure_of_other, 1)
            rises.append(rate - other - np.hypot(rate - low, most - other) > LIMITS.max_failure_rise)
        worse = rises[0] | (rises[1] & above)
        bad = np.where(before[0] >= LIMITS.min_requests, worse, bad)
    # Expected number of clients with a failure, if each failure hits a random client.
    hit = np.round(clients * (1 - (1 - 1 / clients) ** failed)) if clients > 1 else np.minimum(failed, 1)
    needed = min(LIMITS.min_clients, clients)
    result: Truths = bad & (total >= LIMITS.min_requests) & (hit >= needed)
    return result


def _effect(requests: Numbers, failures: Numbers, parts: Numbers) -> Numbers:
    total = requests.sum(1)
    rate = _share(failures.sum(1), total)[:, None]
    spread = requests * rate * (1 - rate)
    scatter = np.divide(
        (failures - rate * requests) ** 2, spread, out=np.zeros_like(spread), where=spread > 0
    ).sum(1)
    assumed = 1 + bounds.ALIKE * np.maximum(0, total / parts - 1)
    weight = bounds.ASSUMED_PARTS * np.minimum(1, bounds.FEW_PARTS / parts)
    effect: Numbers = np.maximum(1, (weight * assumed + scatter) / (weight + parts - 1))
    return effect


def _share(failures: Numbers, requests: Numbers) -> Numbers:
    return np.minimum(1.0, failures / np.maximum(requests, 1e-9))


def _wilson(failures: Numbers, requests: Numbers, sure: Numbers | float, side: int) -> Numbers:
    requests = np.maximum(requests, 1e-9)
    rate = np.minimum(1.0, failures / requests)
    square = sure * sure / requests
    spread = sure * np.sqrt(rate * (1 - rate) / requests + square / (4 * requests))
    bound: Numbers = np.clip((rate + square / 2 + side * spread) / (1 + square), 0, 1)
    return bound


def simulated(cell: Cell, runs: int, seed: int) -> Outcome:
    """Return the outcome of many releases of one kind."""
    random = np.random.default_rng((seed, *map(ord, repr(cell))))
    requests, failures = traffic(random, cell, cell.rate, runs)
    before = None
    if cell.before is not None:
        before_requests, before_failures = traffic(random, cell, cell.before, runs)
        before = before_requests.sum(1), before_failures.sum(1)
    ended = ends(requests, failures, before, cell.clients)
    taken_back = ended[ended > 0]
    seconds = float(np.median(taken_back)) * LOOK_S if taken_back.size else None
    return Outcome(taken_back=taken_back.size / runs, seconds=seconds)


def wrong(cell: Cell, outcome: Outcome) -> bool:
    """Return whether over 1 % of the verdicts are wrong: a good release reverted, or a bad one kept."""
    allows = cell.requests_per_s * LOOKS * LOOK_S >= ENOUGH
    if cell.rate <= GOOD or (cell.rate == cell.before and allows):
        return outcome.taken_back > 0.01
    return cell.before != cell.rate >= BAD and allows and outcome.taken_back < 0.99


def table(path: Path) -> str:
    """Return a file's outcomes as a Markdown table: share of reverts, and median time until them."""
    rows = json.loads(path.read_text(encoding="utf-8"))["cells"]
    head = ("requests/s", "failures", "version before", *(f"{rate:.1%}" for rate in RATES))
    kinds = itertools.product(REQUESTS_PER_S, (False, True), (False, True))
    lines = (_line(rows, often, bursty, compared) for often, bursty, compared in kinds)
    return f"{markdown.table(head, lines)}\n\n{_below(rows)}"


def _line(rows: list[dict[str, Any]], often: float, bursty: bool, compared: bool) -> list[str]:
    shown = [
        _shown(row)
        for rate in RATES
        for row in rows
        if (row["rate"], row["requests_per_s"], row["bursty"], row["clients"], row["before"])
        == (rate, often, bursty, max(CLIENTS), min(rate, BEFORE) if compared else None)
    ]
    kind, before = "in bursts" if bursty else "independent", f"{BEFORE:.1%}" if compared else "none"
    return [f"{often:g}", kind, before, *shown]


def _below(rows: list[dict[str, Any]]) -> str:
    steady = [row for row in rows if row["rate"] == STEADY]
    apart = max(
        abs(_one_client(rows, row)["taken_back"] - row["taken_back"])
        for row in rows
        if row["clients"] > 1 and row not in steady
    )
    reverted = ", ".join(
        f"{row['taken_back']:.1%} taken back at {row['requests_per_s']:g}/s" for row in steady
    )
    return (
        f"With one client instead of {max(CLIENTS)} no share differs by more than {100 * apart:.1f} points. "
        f"Both versions fail {STEADY:.0%}: {reverted}."
    )


def _one_client(rows: list[dict[str, float]], row: dict[str, float]) -> dict[str, float]:
    like = {key: row[key] for key in ("rate", "requests_per_s", "bursty", "before")}
    return next(one for one in rows if one["clients"] == 1 and like.items() <= one.items())


def _shown(row: dict[str, float]) -> str:
    if not row["taken_back"]:
        return "0"
    share = f"{row['taken_back']:.1%}" if row["taken_back"] >= 0.0005 else "<0.1%"
    return f"{share}, {row['seconds']:.0f} s"


def main() -> None:
    """Simulate every kind of release, and write the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"bakes of each kind (default {RUNS})")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    found = []
    for cell in cells():
        outcome = simulated(cell, arguments.runs, arguments.seed)
        found.append({**asdict(cell), **asdict(outcome)})
        if wrong(cell, outcome):
            print(f"more than 1 % wrong: {cell} {outcome}")
    head = {"runs": arguments.runs, "seed": arguments.seed, "limits": asdict(LIMITS)}
    arguments.output.write_text(json.dumps({**head, "cells": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
