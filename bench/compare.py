"""Whether another run says the same: the ratios of two runs side by side. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.series import Series

TOLERANCE = 0.15
"""How far a claimed ratio may be from that of another run."""

Ratio = tuple[str, str, str]
"""A bench, one of its series, and the series with which its median is compared."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One ratio in two runs.

    Attributes:
        bench, series: whose it is.
        versus: the series with which it is compared.
        old, new: the ratio of the medians; None where it was not measured.
        claimed: whether the documents claim it.
    """

    bench: str
    series: str
    versus: str
    old: float | None
    new: float | None
    claimed: bool

    @property
    def difference(self) -> float:
        """How much larger one is than the other, as a share of the smaller; the same whichever run was first."""
        if not self.old or not self.new:
            return 0.0 if self.old == self.new else float("inf")
        return max(self.old / self.new, self.new / self.old) - 1

    def holds(self, tolerance: float = TOLERANCE) -> bool:
        """Return whether nothing is claimed, or both runs measured it and agree."""
        return not self.claimed or (self.old is not None and self.difference <= tolerance)


def compare(
    old: Mapping[str, Sequence[Series]],
    new: Mapping[str, Sequence[Series]],
    claimed: Collection[Ratio],
) -> list[Comparison]:
    """Return each ratio of a series to its baseline that both runs have, in the order of the new run, and each claimed ratio.

    Args:
        old, new: the series by bench.
        claimed: what the documents claim.
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
    lines = [
        "| bench | series | compared with | old ratio | new ratio | differ by | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in comparisons:
        old, new = ("not measured" if value is None else f"{value:.2f}" for value in (one.old, one.new))
        apart = "" if one.old is None or one.new is None else f"{one.difference:.0%}"
        said = "" if not one.claimed else "claimed" if one.holds(tolerance) else "claimed: does not hold"
        lines.append(f"| {one.bench} | {one.series} | {one.versus} | {old} | {new} | {apart} | {said} |")
    return "\n".join(lines)


def _to_baselines(benches: Mapping[str, Sequence[Series]]) -> list[Ratio]:
    ratios = [(bench, one.name, one.baseline) for bench, series in benches.items() for one in series]
    return [ratio for ratio in ratios if _value(ratio, benches) is not None]


def _value(ratio: Ratio, benches: Mapping[str, Sequence[Series]]) -> float | None:
    """Return a ratio of medians; None when a series was not measured, or what it is compared with is zero."""
    bench, series, versus = ratio
    medians = {one.name: statistics.median(one.values) for one in benches.get(bench, ())}
    return medians[series] / medians[versus] if series in medians and medians.get(versus) else None
