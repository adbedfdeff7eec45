"""What was measured, as it is kept: raw values, and what a table shows of them. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Series:
    """The values of one thing that was measured again and again.

    Attributes:
        name: what was done.
        unit: unit of the values.
        values: as they were measured, in order.
        baseline: name of the series that its median is compared with, or empty.
        counts: what was counted meanwhile, for example failed requests.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    baseline: str = ""
    counts: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row of the table. ``ratio`` is of medians; ``ratio_low`` and ``ratio_high`` are its spread, see ``summaries``."""

    name: str
    unit: str
    n: int
    minimum: float
    median: float
    p99: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    counts: Mapping[str, int]


def summaries(series: Sequence[Series]) -> list[Summary]:
    """Return a row for each series.

    The spread of a ratio is that of the quarters of the run: both series were measured in turn, so a neighbour on the machine that
    was busy for a while slows both in the same quarter.
    """
    by_name = {one.name: one for one in series}
    rows = []
    for one in series:
        base = by_name.get(one.baseline)
        ratios = (
            [
                statistics.median(mine) / statistics.median(its)
                for mine, its in zip(_quarters(one.values), _quarters(base.values), strict=True)
            ]
            if base
            else []
        )
        rows.append(
            Summary(
                name=one.name,
                unit=one.unit,
                n=len(one.values),
                minimum=min(one.values),
                median=statistics.median(one.values),
                p99=quantile(one.values, 0.99),
                ratio=statistics.median(one.values) / statistics.median(base.values) if base else None,
                ratio_low=min(ratios, default=None),
                ratio_high=max(ratios, default=None),
                counts=one.counts or {},
            )
        )
    return rows


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(rows: Sequence[Summary]) -> str:
    """Return rows as a Markdown table."""
    lines = [
        "| what | n | min | median | p99 | ratio of medians (spread) | counted |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
        counted = ", ".join(f"{count} {what}" for what, count in row.counts.items())
        numbers = " | ".join(with_unit(value, row.unit) for value in (row.minimum, row.median, row.p99))
        lines.append(f"| {row.name} | {row.n} | {numbers} | {ratio} | {counted} |")
    return "\n".join(lines)


def with_unit(value: float, unit: str) -> str:
    """Return a value as tables and pictures show it."""
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def to_json(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the series as plain JSON values."""
    return [asdict(one) for one in series]


def from_json(data: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Read back what ``to_json`` gave."""
    return [Series(**{**one, "values": tuple(one["values"])}) for one in data]


def _quarters(values: Sequence[float]) -> list[Sequence[float]]:
    if len(values) < 4:
        return [values] * 4
    cuts = [round(len(values) * quarter / 4) for quarter in range(5)]
    return [values[begin:end] for begin, end in itertools.pairwise(cuts)]
