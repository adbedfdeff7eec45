"""Measured series: raw values as they are kept in JSON, and a table of their summaries. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import markdown


@dataclass(frozen=True, kw_only=True)
class Series:
    """The values of a measurement that was repeated.

    Attributes:
        name: name of the measurement.
        unit: unit of the values.
        values: raw values, in the order of the measurement.
        baseline: name of the series that the median is compared with, or empty.
        counts: events counted during the measurement, by name, for example failed requests.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    baseline: str = ""
    counts: Mapping[str, int] | None = None

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row of the table.

    ``ratio`` is that of the medians; ``ratio_low`` and ``ratio_high`` are its spread, see ``summaries``.
    """

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


def by_way(
    values: Mapping[str, Sequence[float]], unit: str, *, baseline: str, name: str = "{}"
) -> list[Series]:
    """Return a series for each way to do the same thing.

    Args:
        values: values by way.
        unit: unit of the values.
        baseline: the way that the others are compared with; if it has no values, none is compared.
        name: name of a series, with ``{}`` in the place of the way.
    """
    return [
        Series(
            name=name.format(way),
            unit=unit,
            values=tuple(of_way),
            baseline=name.format(baseline) if baseline in values and way != baseline else "",
        )
        for way, of_way in values.items()
    ]


def summaries(series: Sequence[Series]) -> list[Summary]:
    """Return a row for each series.

    The spread of a ratio is its range over the quarters of the run. Both series were measured in turn, so a
    burst of other load on the machine slows both in the same quarter.
    """
    by_name = {one.name: one for one in series}
    return [_summary(one, by_name.get(one.baseline)) for one in series]


def _summary(one: Series, base: Series | None) -> Summary:
    ratios = (
        [
            statistics.median(mine) / statistics.median(its)
            for mine, its in zip(_quarters(one.values), _quarters(base.values), strict=True)
        ]
        if base
        else []
    )
    return Summary(
        name=one.name,
        unit=one.unit,
        n=len(one.values),
        minimum=min(one.values),
        median=one.median,
        p99=quantile(one.values, 0.99),
        ratio=one.median / base.median if base else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        counts=one.counts or {},
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(rows: Sequence[Summary]) -> str:
    """Return rows as a Markdown table."""
    head = ("what", "n", "min", "median", "p99", "ratio of medians (spread)", "counted")
    return markdown.table(head, map(_cells, rows))


def _cells(row: Summary) -> list[object]:
    numbers = [with_unit(value, row.unit) for value in (row.minimum, row.median, row.p99)]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    counted = ", ".join(f"{count} {what}" for what, count in row.counts.items())
    return [row.name, row.n, *numbers, ratio, counted]


def with_unit(value: float, unit: str) -> str:
    """Return a value as tables and pictures show it."""
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def to_json(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the series as plain JSON values."""
    return [asdict(one) for one in series]


def from_json(data: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Return the series that ``to_json`` wrote."""
    return [Series(**{**one, "values": tuple(one["values"])}) for one in data]


def _quarters(values: Sequence[float]) -> list[Sequence[float]]:
    if len(values) < 4:
        return [values] * 4
    cuts = [round(len(values) * quarter / 4) for quarter in range(5)]
    return [values[begin:end] for begin, end in itertools.pairwise(cuts)]
