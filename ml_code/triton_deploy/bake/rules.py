"""When a release is bad, by its figures; the same rules judge a canary.

Pure rules: standard library only, no I/O, time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

SURE = 1.645
"""Standard deviations: a failure rate counts as above a limit when chance alone gives so many failures in one look of twenty."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a version has to keep.

    Attributes:
        min_requests: fewer say nothing.
        max_failure_ratio: share of failed requests, 0 to 1.
        max_failure_rise: how much greater that share may be than the previous release's, 0 to 1.
        max_latency_ratio: how many times the previous release's latency; 0 is no limit.
        min_latency_rise_s: a latency that rose by less is not slower, whatever the ratio; seconds.
        max_latency_s: absolute limit of the latency, seconds; 0 is none.
    """

    min_requests: int = 100
    max_failure_ratio: float = 0.01
    max_failure_rise: float = 0.005
    max_latency_ratio: float = 2.0
    min_latency_rise_s: float = 0.01
    max_latency_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one source saw of one version in one span of time.

    Attributes:
        requests: all of them, failed ones included.
        failures: those that failed by the service's fault.
        latency_s: a high quantile of the time that answers took, or their mean where the source has no better; seconds.
            None when it is not known.
    """

    requests: float
    failures: float
    latency_s: float | None

    @property
    def failure_ratio(self) -> float:
        """Share of the requests that failed, 0 to 1."""
        return min(1.0, self.failures / self.requests) if self.requests > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one source says.

    Attributes:
        source: its name.
        now: of the version that is judged.
        before: of the version that it is compared with; None when there is none.
    """

    source: str
    now: Figures
    before: Figures | None = None


def is_enough(reading: Reading, limits: Limits) -> bool:
    """Whether a source saw enough requests to judge by."""
    return reading.now.requests >= max(limits.min_requests, 1)


def complaints(reading: Reading, limits: Limits) -> Iterator[str]:
    """Yield why a version is bad, by a source that saw enough; nothing when it is not.

    Args:
        reading: what the source says.
        limits: what the version has to keep.
    """
    before = reading.before
    if before is not None and before.requests < max(limits.min_requests, 1):
        before = None
    yield from _failures(reading, before, limits)
    yield from _latency(reading, before, limits)


def _failures(reading: Reading, before: Figures | None, limits: Limits) -> Iterator[str]:
    now = reading.now
    least = lower_bound(now.failures, now.requests)
    share = f"{reading.source}: {now.failure_ratio:.1%} of {now.requests:.0f} requests failed"
    if least > limits.max_failure_ratio:
        yield f"{share}, the limit is {limits.max_failure_ratio:.1%}"
    elif before is not None and least > before.failure_ratio + limits.max_failure_rise:
        yield f"{share}, {before.failure_ratio:.1%} of the previous release's at the same age"


def _latency(reading: Reading, before: Figures | None, limits: Limits) -> Iterator[str]:
    latency_s = reading.now.latency_s
    if latency_s is None:
        return
    took = f"{reading.source}: answers take {1000 * latency_s:.1f} ms"
    if 0 < limits.max_latency_s < latency_s:
        yield f"{took}, the limit is {1000 * limits.max_latency_s:.1f} ms"
    elif before is not None and before.latency_s is not None and limits.max_latency_ratio > 0:
        slower = latency_s > limits.max_latency_ratio * before.latency_s
        if slower and latency_s - before.latency_s > limits.min_latency_rise_s:
            yield f"{took}, {1000 * before.latency_s:.1f} ms those of the previous release at the same age"


def lower_bound(failures: float, requests: float) -> float:
    """Return the failure rate that a version has at least, by what was seen: Wilson's lower bound, one-sided 95 %.

    Two failures of a hundred do not show that the rate is above 1 %; twenty of a thousand do.

    Args:
        failures: of the requests.
        requests: how many, in all.

    Returns:
        A share, 0 to 1; 0 without requests.
    """
    if requests <= 0 or failures <= 0:
        return 0.0
    share = min(1.0, failures / requests)
    square = SURE * SURE / requests
    spread = SURE * math.sqrt(share * (1 - share) / requests + square / (4 * requests))
    return max(0.0, (share + square / 2 - spread) / (1 + square))


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a release.

    Attributes:
        judged: whether there was enough to judge by.
        bad: why it is bad; empty when it is not.
        unknown: why nothing could be asked; empty when it could.
    """

    judged: bool = False
    bad: tuple[str, ...] = ()
    unknown: str = ""


class Course(StrEnum):
    """Where a bake stands after a look."""

    GOES_ON = "goes_on"
    PASSED = "passed"
    FAILED = "failed"
    NO_DATA = "no_data"


def course(looks: Sequence[Look], *, bad_looks: int, over: bool, patience: int) -> Course:
    """Say where a bake stands.

    Args:
        looks: all so far, oldest first. The last one of a bake that is over is about the whole of it.
        bad_looks: so many bad ones in a row fail it before its end.
        over: whether its time is over.
        patience: so many last looks may be unknown before an end without an answer is taken for one without data.
    """
    last = looks[-max(bad_looks, 1) :]
    if len(last) >= max(bad_looks, 1) and all(look.bad for look in last):
        return Course.FAILED
    if not over:
        return Course.GOES_ON
    final = looks[-1]
    if final.bad:
        return Course.FAILED
    if final.unknown and not all(look.unknown for look in looks[-patience:]):
        return Course.GOES_ON
    return Course.PASSED if final.judged else Course.NO_DATA
