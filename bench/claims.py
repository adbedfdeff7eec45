"""What is claimed of the figures: which series is held against which, what was aimed at, and why where it was missed. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.series import Series


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A line of the README's table.

    Attributes:
        what: what was done.
        bench: the benchmark that measured it.
        series: name of the series.
        versus: series with which its median is compared; empty: the median itself is the figure.
        beside: what ``versus`` is, in words.
        count: what is counted of the series; the figure is the count then.
        at_most: the figure is aimed at this or less; None: without an aim.
        at_least: the same upwards.
        why: why an aim was missed.
    """

    what: str
    bench: str
    series: str
    versus: str = ""
    beside: str = ""
    count: str = ""
    at_most: float | None = None
    at_least: float | None = None
    why: str = ""

    def figure(self, measured: Mapping[str, Sequence[Series]]) -> float:
        """Return the figure; raises KeyError when it was not measured."""
        by_name = {series.name: series for series in measured[self.bench]}
        mine = by_name[self.series]
        if self.count:
            return (mine.counts or {})[self.count]
        median = statistics.median(mine.values)
        return median / statistics.median(by_name[self.versus].values) if self.versus else median

    def unit(self, measured: Mapping[str, Sequence[Series]]) -> str:
        """Return the figure's unit; a ratio and a count have none."""
        if self.versus or self.count:
            return ""
        return next(series.unit for series in measured[self.bench] if series.name == self.series)

    def met(self, figure: float) -> bool | None:
        """Whether the aim is met; None when there is none. Rounded as the table shows it."""
        if self.at_most is None and self.at_least is None:
            return None
        shown = float(f"{figure:.3g}") if not self.versus else round(figure, 2)
        return (self.at_most is None or shown <= self.at_most) and (
            self.at_least is None or shown >= self.at_least
        )


def table(claims: Sequence[Claim], measured: Mapping[str, Sequence[Series]]) -> str:
    """Return claims with their figures as a Markdown table."""
    lines = ["| what | figure | compared with | aim |", "|---|---|---|---|"]
    for claim in claims:
        figure = claim.figure(measured)
        unit = claim.unit(measured)
        shown = (
            f"{figure:.2f}" if claim.versus else f"{figure:.0f}" if claim.count else f"{figure:.3g} {unit}"
        )
        lines.append(f"| {claim.what} | {shown} | {claim.beside} | {_aim(claim, figure)} |")
    return "\n".join(lines)


def _aim(claim: Claim, figure: float) -> str:
    met = claim.met(figure)
    if met is None:
        return ""
    bound = f"at most {claim.at_most:g}" if claim.at_most is not None else f"at least {claim.at_least:g}"
    return bound if met else f"{bound}: **missed**, {claim.why}"


CLAIMS: tuple[Claim, ...] = ()
