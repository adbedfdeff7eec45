"""Compares the ratios of two runs: does the new run confirm the claims of the old one? Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from . import markdown
from .series import Series

TOLERANCE = 0.15
"""Largest accepted difference of a claimed ratio between two runs, as a share."""

Ratio = tuple[str, str, str]
"""A bench, one of its series, and the series that its median is compared with."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One ratio in two runs.

    Attributes:
        bench, series: the series.
        versus: the series that it is compared with.
        old, new: the ratio of the medians; None if the run did not measure it.
        claimed: whether the documents claim the ratio.
    """

    bench: str
    series: str
    versus: str
    old: float | None
    new: float | None
    claimed: bool

    @property
    def difference(self) -> float:
        """Difference of the ratios as a share of the smaller one; symmetric in the two runs."""
        if not self.old or not self.new:
            return 0.0 if self.old == self.new else float("inf")
        return max(self.old / self.new, self.new / self.old) - 1

    def holds(self, tolerance: float = TOLERANCE) -> bool:
        """Return whether the ratio is not claimed, or both runs measured it and agree."""
        return not self.claimed or (self.old is not None and self.difference <= tolerance)


def compare(
    old: Mapping[str, Sequence[Series]],
    new: Mapping[str, Sequence[Series]],
    claimed: Collection[Ratio],
) -> list[Comparison]:
    """Return the ratios that both runs have, in the order of the new run, and every claimed ratio.

    Args:
        old, new: the series by bench.
        claimed: the ratios that the documents claim.
    """
    before = _to_baselines(old)
    both = [ratio for ratio in _to_baselines(new) if ratio in before or ratio in claimed]
    ratios = dict.fromkeys([*both, *claimed])
    return [
        Comparison(
            bench=ratio[0],
            series=ratio[1],
            versus=ratio[2],
            old=_value(ratio, old),
            new=_value(ratio, new),
            claimed=ratio in claimed,
        )
        for ratio in ratios
    ]


def table(comparisons: Sequence[Comparison], tolerance: float = TOLERANCE) -> str:
    """Return the comparisons as a Markdown table."""
    head = ("bench", "series", "compared with", "old ratio", "new ratio", "differ by", "")
    return markdown.table(head, (_cells(one, tolerance) for one in comparisons))


def _cells(one: Comparison, tolerance: float) -> list[str]:
    ratios = ["not measured" if value is None else f"{value:.2f}" for value in (one.old, one.new)]
    apart = "" if one.old is None or one.new is None else f"{one.difference:.0%}"
    claimed = "" if not one.claimed else "claimed" if one.holds(tolerance) else "claimed: does not hold"
    return [one.bench, one.series, one.versus, *ratios, apart, claimed]


def _to_baselines(benches: Mapping[str, Sequence[Series]]) -> list[Ratio]:
    ratios = [(bench, one.name, one.baseline) for bench, series in benches.items() for one in series]
    return [ratio for ratio in ratios if _value(ratio, benches) is not None]


def _value(ratio: Ratio, benches: Mapping[str, Sequence[Series]]) -> float | None:
    """Return a ratio of medians; None if a series was not measured, or the median of ``versus`` is zero."""
    bench, series, versus = ratio
    medians = {one.name: one.median for one in benches.get(bench, ())}
    return medians[series] / medians[versus] if series in medians and medians.get(versus) else None
