"""What counts of failures show, where failures come in bursts: one cause fails many requests.

Pure: standard library only. ``bench/bake_verdicts.py`` simulates what these bounds come to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SURE = 1.645
"""Standard deviations of a bound that holds 19 times of 20, for counts that do not depend on each other."""
FIRM, FIRM_OF_FEW = 2.5, 3.5
"""Standard deviations by which a failure rate has to be above a limit, and how many more while there is one part only: a bake looks
thirty times, and of few parts nobody knows how far they differ."""
CLEAR, CLEAR_OF_FEW = 1.645, 4.0
"""The same for a rate that is firmly above the absolute limit already, and is compared with another version's."""
ALIKE = 0.04
"""Correlation of two requests of one part that is assumed before anything is known."""
ASSUMED_PARTS = 3
"""So many parts of what is seen weigh as much as that assumption."""
FEW_PARTS = 4
"""From so many parts on it weighs less with each more."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Requests of some time, and how many of them failed."""

    requests: float
    failures: float

    @property
    def share(self) -> float:
        """Share that failed, 0 to 1."""
        return min(1.0, self.failures / self.requests) if self.requests > 0 else 0.0

    def times(self, requests: float, failures: float) -> Counts:
        """Return the counts with each multiplied."""
        return Counts(requests=self.requests * requests, failures=self.failures * failures)

    def less(self, other: Counts) -> Counts:
        """Return what others did not count; never less than nothing."""
        requests = max(0.0, self.requests - other.requests)
        return Counts(requests=requests, failures=min(requests, max(0.0, self.failures - other.failures)))


@dataclass(frozen=True)
class Evidence:
    """Counts of one version, and of equal parts of the time in which they came.

    Attributes:
        counts: of the whole time.
        parts: of its parts; without any the whole is one.
    """

    counts: Counts
    parts: tuple[Counts, ...] = ()

    @property
    def known_parts(self) -> int:
        """How many parts there are with a request, 1 at least."""
        return max(1, sum(part.requests > 0 for part in self.parts))

    @property
    def design_effect(self) -> float:
        """How many failures say as much as one would that depends on no other: 1 at least.

        What the parts show (Pearson's statistic of their failures) and what is assumed of any service, weighed by ``ASSUMED_PARTS``.
        """
        parts = self.known_parts
        assumed = 1 + ALIKE * max(0.0, self.counts.requests / parts - 1)
        weight = ASSUMED_PARTS * min(1.0, FEW_PARTS / parts)
        return max(1.0, (weight * assumed + _scatter(self.parts)) / (weight + parts - 1))

    def is_above(self, limit: float) -> bool:
        """Whether the failure rate is firmly above a limit, a share."""
        return self._least(FIRM + FIRM_OF_FEW / self.known_parts) > limit

    def is_worse(self, before: Counts, rise: float, limit: float) -> bool:
        """Whether the failure rate is above another version's by a margin: firmly, or clearly if it is firmly above a limit, too.

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
        # It fails more than it may in any case: a quiet time of the other version, however short, need not be firm as well.
        return self.is_above(limit) and self._least_rise(before, clear, CLEAR) > rise

    def _least(self, sure: float) -> float:
        effect = self.design_effect
        return lower_bound(self.counts.failures / effect, self.counts.requests / effect, sure)

    def _least_rise(self, before: Counts, sure: float, sure_of_other: float) -> float:
        """Return the least difference of the two rates, after Newcombe; the other version's failures come in such bursts, too."""
        effect, rate, other = self.design_effect, self.counts.share, before.share
        most = upper_bound(before.failures / effect, before.requests / effect, sure_of_other)
        return rate - other - math.hypot(rate - self._least(sure), most - other)


def lower_bound(failures: float, requests: float, sure: float = SURE) -> float:
    """Return the failure rate that a version has at least, by what was seen: Wilson's lower bound.

    Two failures of a hundred do not show that the rate is above 1 %; twenty of a thousand do.

    Args:
        failures: of the requests.
        requests: how many, in all.
        sure: how sure, standard deviations.

    Returns:
        A share, 0 to 1; 0 without requests.
    """
    if requests <= 0 or failures <= 0:
        return 0.0
    centre, spread = _wilson(failures, requests, sure)
    return max(0.0, centre - spread)


def upper_bound(failures: float, requests: float, sure: float = SURE) -> float:
    """Return the failure rate that a version has at most; 1 without requests. See ``lower_bound``."""
    if requests <= 0:
        return 1.0
    centre, spread = _wilson(failures, requests, sure)
    return min(1.0, centre + spread)


def _wilson(failures: float, requests: float, sure: float) -> tuple[float, float]:
    """Return the middle of Wilson's interval, and half its width."""
    share = min(1.0, failures / requests)
    square = sure * sure / requests
    spread = sure * math.sqrt(share * (1 - share) / requests + square / (4 * requests))
    return (share + square / 2) / (1 + square), spread / (1 + square)


def _scatter(parts: Sequence[Counts]) -> float:
    """Return how far the parts' failures are from what equal rates would give: as many as the parts less one, if only by chance."""
    requests = sum(part.requests for part in parts)
    share = min(1.0, sum(part.failures for part in parts) / requests) if requests > 0 else 0.0
    if not 0 < share < 1:
        return 0.0
    return sum(
        (part.failures - share * part.requests) ** 2 / (part.requests * share * (1 - share))
        for part in parts
        if part.requests > 0
    )
