"""Whether another run says the same: the ratios of two runs side by side. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.series import Series

TOLERANCE = 0.15
"""How far a claimed ratio may be from that of another run."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One ratio in two runs.

    Attributes:
        bench, series: whose it is.
        old, new: the ratio of the series' median to its baseline's; None where it was not measured.
        claimed: whether the documents claim it.
    """

    bench: str
    series: str
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
    claimed: Collection[tuple[str, str]],
) -> list[Comparison]:
    """Return each ratio that both runs have, and each claimed one, by bench in the order of the new run.

    Args:
        old, new: the series by bench.
        claimed: bench and series of each ratio that the documents claim.
    """
    before, after = dict(_ratios(old)), dict(_ratios(new))
    both = [key for key in after if key in before or key in claimed]
    return [
        Comparison(
            bench=key[0], series=key[1], old=before.get(key), new=after.get(key), claimed=key in claimed
        )
        for key in [*both, *sorted(set(claimed) - set(after))]
    ]


def table(comparisons: Sequence[Comparison], tolerance: float = TOLERANCE) -> str:
    """Return the comparisons as a Markdown table."""
    lines = ["| bench | series | old ratio | new ratio | differ by | |", "|---|---|---|---|---|---|"]
    for one in comparisons:
        old, new = ("not measured" if value is None else f"{value:.2f}" for value in (one.old, one.new))
        apart = "" if one.old is None or one.new is None else f"{one.difference:.0%}"
        said = "" if not one.claimed else "claimed" if one.holds(tolerance) else "claimed: does not hold"
        lines.append(f"| {one.bench} | {one.series} | {old} | {new} | {apart} | {said} |")
    return "\n".join(lines)


def _ratios(benches: Mapping[str, Sequence[Series]]) -> Iterator[tuple[tuple[str, str], float]]:
    for bench, series in benches.items():
        medians = {one.name: statistics.median(one.values) for one in series}
        for one in series:
            if medians.get(one.baseline):
                yield (bench, one.name), medians[one.name] / medians[one.baseline]
