"""Bounds of a failure rate where failures come in bursts: one cause fails many requests.

Pure: standard library only. ``bench/bake_verdicts.py`` simulates the effect of these bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SURE = 1.645
"""Standard deviations of a bound that holds 19 times of 20, for independent counts."""
FIRM, FIRM_OF_FEW = 2.5, 3.5
"""Standard deviations by which a failure rate has to be above a limit, and the addition while there is
one part only: a bake has thirty checks, and few parts do not show how far parts differ."""
CLEAR, CLEAR_OF_FEW = 1.645, 4.0
"""The same for a rate that is already firmly above the absolute limit, and is compared with another
version's."""
ALIKE = 0.04
"""Assumed correlation of two requests of one part, before there is evidence."""
ASSUMED_PARTS = 3
"""Number of observed parts that weigh as much as that assumption."""
FEW_PARTS = 4
"""Number of parts from which on the assumption weighs less with each further part."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Requests in a span of time, and the failed ones among them."""

    requests: float
    failures: float

    @property
    def share(self) -> float:
        """Share of failed requests, 0 to 1."""
        return min(1.0, self.failures / self.requests) if self.requests > 0 else 0.0

    def times(self, requests: float, failures: float) -> Counts:
        """Return the counts, each multiplied by its factor."""
        return Counts(requests=self.requests * requests, failures=self.failures * failures)

    def less(self, other: Counts) -> Counts:
        """Return the counts without those of another source; never below 0."""
        requests = max(0.0, self.requests - other.requests)
        return Counts(requests=requests, failures=min(requests, max(0.0, self.failures - other.failures)))


@dataclass(frozen=True)
class Evidence:
    """Counts of one version, in all and in equal parts of their time.

    Attributes:
        counts: counts of the whole time.
        parts: counts of its parts; without parts the whole time is one part.
    """

    counts: Counts
    parts: tuple[Counts, ...] = ()

    @property
    def known_parts(self) -> int:
        """Number of parts with a request, at least 1."""
        return max(1, sum(part.requests > 0 for part in self.parts))

    @property
    def design_effect(self) -> float:
        """Number of failures that are worth one independent failure, at least 1.

        A weighted mean of the parts' scatter (Pearson's statistic of their failures) and of the
        assumption: see ``ASSUMED_PARTS``.
        """
        parts = self.known_parts
        assumed = 1 + ALIKE * max(0.0, self.counts.requests / parts - 1)
        weight = ASSUMED_PARTS * min(1.0, FEW_PARTS / parts)
        return max(1.0, (weight * assumed + _scatter(self.parts)) / (weight + parts - 1))

    def is_above(self, limit: float) -> bool:
        """Whether the failure rate is firmly above a limit, a share."""
        return self._least(FIRM + FIRM_OF_FEW / self.known_parts) > limit

    def is_worse(self, before: Counts, rise: float, limit: float) -> bool:
        """Whether the failure rate is above another version's by a margin.

        It has to be so firmly, or only clearly if the rate is also firmly above a limit.

        Args:
            before: counts of the other version.
            rise: the margin, a share.
            limit: the limit, a share.
        """
        firm, clear = (
            sure + of_few / self.known_parts for sure, of_few in ((FIRM, FIRM_OF_FEW), (CLEAR, CLEAR_OF_FEW))
        )
        if self._least_rise(before, firm, firm) > rise:
            return True
        # The rate is above the absolute limit anyway, so a short quiet time of the other version is
        # evidence enough.
        return self.is_above(limit) and self._least_rise(before, clear, CLEAR) > rise

    def _least(self, sure: float) -> float:
        effect = self.design_effect
        return lower_bound(self.counts.failures / effect, self.counts.requests / effect, sure)

    def _least_rise(self, before: Counts, sure: float, sure_of_other: float) -> float:
        """Return Newcombe's lower bound of the rates' difference; assumes the same bursts for both."""
        effect, rate, other = self.design_effect, self.counts.share, before.share
        most = upper_bound(before.failures / effect, before.requests / effect, sure_of_other)
        return rate - other - math.hypot(rate - self._least(sure), most - other)


def lower_bound(failures: float, requests: float, sure: float = SURE) -> float:
    """Return Wilson's lower bound of a failure rate.

    Two failures of a hundred do not show that the rate is above 1 %; twenty of a thousand do.

    Args:
        failures: number of failed requests.
        requests: number of requests.
        sure: confidence, standard deviations.

    Returns:
        A share, 0 to 1; 0 without requests.
    """
    if requests <= 0 or failures <= 0:
        return 0.0
    centre, spread = _wilson(failures, requests, sure)
    return max(0.0, centre - spread)


def upper_bound(failures: float, requests: float, sure: float = SURE) -> float:
    """Return Wilson's upper bound of a failure rate; 1 without requests. See ``lower_bound``."""
    if requests <= 0:
        return 1.0
    centre, spread = _wilson(failures, requests, sure)
    return min(1.0, centre + spread)


def _wilson(failures: float, requests: float, sure: float) -> tuple[float, float]:
    """Return the centre of Wilson's interval, and half its width."""
    share = min(1.0, failures / requests)
    square = sure * sure / requests
    spread = sure * math.sqrt(share * (1 - share) / requests + square / (4 * requests))
    return (share + square / 2) / (1 + square), spread / (1 + square)


def _scatter(parts: Sequence[Counts]) -> float:
    """Return Pearson's statistic of the parts' failures: by chance about the number of parts less one."""
    requests = sum(part.requests for part in parts)
    share = min(1.0, sum(part.failures for part in parts) / requests) if requests > 0 else 0.0
    if not 0 < share < 1:
        return 0.0
    return sum(
        (part.failures - share * part.requests) ** 2 / (part.requests * share * (1 - share))
        for part in parts
        if part.requests > 0
    )
