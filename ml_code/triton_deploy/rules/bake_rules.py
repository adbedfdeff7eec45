"""When a release is bad, by its figures; the same rules judge a canary.

Pure rules: standard library only, no I/O, time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .failure_evidence import Counts, Evidence

MOST_LOAD = 2.0
"""A version that gets more than so many times the load of the other time is not compared with that time's latency."""
LEAST_OF_SIZE = 10
"""Requests of one number of rows from which on their latency is compared, at least; else a fifth of ``Limits.min_requests``."""
LEAST_BEYOND = 0.1
"""A source is judged by what another one did not see when that is so great a share of what the other one saw, at least."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a version has to keep.

    Attributes:
        min_requests: fewer say nothing.
        min_clients: so many clients have to have had a failure, or all if there are fewer.
        max_failure_ratio: share of failed requests, 0 to 1.
        max_failure_rise: how much greater that share may be than that of the version that it is compared with, 0 to 1.
        max_latency_ratio: how many times that version's latency; 0 is no limit.
        min_latency_rise_s: a latency that rose by less is not slower, whatever the ratio; seconds.
        max_latency_s: absolute limit of the latency, seconds; 0 is none.
    """

    min_requests: int = 100
    min_clients: int = 3
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
        clients: how many clients asked; 0 when that is not known.
        clients_failed: how many of them had a failure; 0 when that is not known.
        both: failed requests on which the version before failed as well, of those that it was asked again.
        alone: those on which it did not.
    """

    requests: float
    failures: float
    latency_s: float | None
    clients: float = 0.0
    clients_failed: float = 0.0
    both: float = 0.0
    alone: float = 0.0

    @property
    def counts(self) -> Counts:
        """The requests and failures."""
        return Counts(requests=self.requests, failures=self.failures)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one source says.

    Attributes:
        source: its name.
        now: of the version that is judged.
        before: of the version that it is compared with; None when there is none.
        beside: which that is, for people.
        meanwhile: both were seen at the same time; else load, sizes and warmth may have been others.
        elsewhere: what another source saw of the same requests, and judges.
        parts: what ``now`` was in equal parts of its time, without what was seen elsewhere; empty where nothing failed.
        fresh: what came since the last look; None for all.
        fresh_latency_s: latency of that; None when it is not known, or nobody asked.
        load: how many times the load of the other time it has; None when that is not known.
        by_rows: requests of one number of rows, by that number: of the version, and of the one that it is compared with.
        aged: figures of the version before at the same age, where ``before`` is of another time.
    """

    source: str
    now: Figures
    before: Figures | None = None
    beside: str = "the previous release before"
    meanwhile: bool = False
    elsewhere: Counts | None = None
    parts: tuple[Counts, ...] = ()
    fresh: Counts | None = None
    fresh_latency_s: float | None = None
    load: float | None = None
    by_rows: Mapping[str, tuple[Figures, Figures]] = field(default_factory=dict)
    aged: Figures | None = None

    @property
    def counts(self) -> Counts:
        """What is to be judged: without what another source judges."""
        return self.now.counts.less(self.elsewhere) if self.elsewhere else self.now.counts

    def evidence(self) -> Evidence:
        """Return what shows how often the version alone is to blame.

        Of the failures that the version before was asked again it may have failed on some as well. Those that were asked are a sample:
        the requests count in the same proportion.
        """
        counts, asked = self.counts, self.now.both + self.now.alone
        if not self.now.both or not counts.failures:
            return Evidence(counts, self.parts)
        sampled, own = min(1.0, asked / counts.failures), self.now.alone / asked
        return Evidence(
            counts.times(sampled, sampled * own),
            tuple(one.times(sampled, sampled * own) for one in self.parts),
        )


def is_enough(reading: Reading, limits: Limits) -> bool:
    """Whether a source saw enough requests to judge by: enough that no other source judges."""
    least = float(max(limits.min_requests, 1))
    if reading.elsewhere is not None:
        # Two sources are never read at the same moment: a small difference is none.
        least = max(least, LEAST_BEYOND * reading.elsewhere.requests)
    return reading.counts.requests >= least


def failing(reading: Reading, limits: Limits) -> Iterator[str]:
    """Yield why a version fails too often, by a source that saw enough; nothing when it does not.

    Args:
        reading: what the source says.
        limits: what the version has to keep.
    """
    evidence, before = reading.evidence(), _measure(reading, limits)
    if _needs_clients(reading.now, limits):
        return
    rate, limit, rise = evidence.counts.share, limits.max_failure_ratio, limits.max_failure_rise
    alone = " on this version alone" if reading.now.both else ""
    share = f"{reading.source}: {rate:.1%} of {reading.counts.requests:.0f} requests failed{alone}"
    if before is None:
        if evidence.is_above(limit):
            yield f"{share}, the limit is {limit:.1%}"
    elif evidence.is_worse(before, rise, limit):
        measure = (
            f"the limit is {limit:.1%}"
            if rate > limit
            else f"{before.share:.1%} of those of {reading.beside}"
        )
        yield f"{share}, {measure}"


def slow(reading: Reading, limits: Limits) -> Iterator[str]:
    """Yield why a version is too slow; see ``failing``."""
    now, before = reading.now, reading.before
    took = f"{reading.source}: answers take {_ms(now.latency_s)}"
    if now.latency_s is not None and 0 < limits.max_latency_s < now.latency_s:
        yield f"{took}, the limit is {_ms(limits.max_latency_s)}"
    elif before is not None and _is_to_blame(reading, limits):
        yield f"{took}, {_ms(before.latency_s)} those of {reading.beside}"


def is_fresh(reading: Reading, limits: Limits) -> bool:
    """Whether failures above the limit came since the last look: else this look sees again what that one saw."""
    if reading.fresh is None:
        return True
    before = _measure(reading, limits)
    limit = limits.max_failure_ratio if before is None else before.share + limits.max_failure_rise
    return reading.fresh.share > limit


def is_still_slow(reading: Reading, limits: Limits) -> bool:
    """Whether what came since the last look was slow as well, as far as anybody knows: else this look sees again what that one saw."""
    latest = reading.fresh_latency_s
    if latest is None:
        return True
    limit_s = limits.max_latency_s
    return (0 < limit_s < latest) or _is_slower(
        replace(reading.now, latency_s=latest), _known(reading.before, limits), limits
    )


def is_slower(reading: Reading, limits: Limits) -> bool:
    """Whether a version is slower than the one that it is compared with, whatever the reason."""
    return _is_slower(reading.now, _known(reading.before, limits), limits)


def uncompared(reading: Reading, limits: Limits) -> str:
    """Return why a source's latency was not compared with another version's; empty when it was, or nobody wants it."""
    if limits.max_latency_ratio <= 0:
        return ""
    before = _known(reading.before, limits)
    if before is None or before.latency_s is None:
        return "nothing is known of another version's"
    if reading.now.latency_s is None:
        return "nothing is known of its own"
    return _incomparable(reading, limits) if is_slower(reading, limits) else ""


def remarks(reading: Reading, limits: Limits) -> Iterator[str]:
    """Yield what people should know of a source that saw enough and does not complain."""
    counts, own = reading.counts, reading.evidence().counts
    if counts.share > limits.max_failure_ratio:
        before = _measure(reading, limits)
        if reading.now.both:
            yield f"{reading.source}: {counts.share:.1%} of the requests failed, {own.share:.1%} on this version alone"
        elif _needs_clients(reading.now, limits):
            yield f"{reading.source}: {counts.share:.1%} of the requests failed, those of {reading.now.clients_failed:.0f} clients"
        elif before is not None:
            yield f"{reading.source}: {counts.share:.1%} of the requests failed, {before.share:.1%} of those of {reading.beside}"


def _measure(reading: Reading, limits: Limits) -> Counts | None:
    """Return the failures of the version that it is compared with; None when they are too few to compare with.

    Without those that both versions would have had: they are not in the evidence either.
    """
    before = _known(reading.before, limits)
    if before is None:
        return None
    shared = max(0.0, reading.counts.share - reading.evidence().counts.share)
    return Counts(requests=before.requests, failures=max(0.0, before.failures - shared * before.requests))


def _known(figures: Figures | None, limits: Limits) -> Figures | None:
    return figures if figures is not None and figures.requests >= max(limits.min_requests, 1) else None


def _needs_clients(now: Figures, limits: Limits) -> bool:
    """Whether too few clients had a failure: it may be they, not the version. Where nobody counts clients, nobody can say."""
    return bool(now.clients and now.clients_failed) and now.clients_failed < min(
        limits.min_clients, now.clients
    )


def _is_slower(now: Figures, before: Figures | None, limits: Limits) -> bool:
    if before is None or before.latency_s is None or now.latency_s is None or limits.max_latency_ratio <= 0:
        return False
    rise_s = now.latency_s - before.latency_s
    return now.latency_s > limits.max_latency_ratio * before.latency_s and rise_s > limits.min_latency_rise_s


def _is_to_blame(reading: Reading, limits: Limits) -> bool:
    return (
        is_slower(reading, limits)
        and not _incomparable(reading, limits)
        and (reading.meanwhile or not _is_explained(reading, limits))
    )


def _incomparable(reading: Reading, limits: Limits) -> str:
    """Return why a latency that looks worse can't be compared with that of another time; empty when it can."""
    if reading.meanwhile:
        return ""
    if reading.load is not None and reading.load > MOST_LOAD:
        return f"there is {_times(reading.load)} the load that {reading.beside} had"
    if reading.by_rows and not _of_sizes(reading, limits):
        return f"its requests have other numbers of rows than those of {reading.beside}"
    return ""


def _is_explained(reading: Reading, limits: Limits) -> bool:
    """Whether a latency that looks worse is not the version's doing: larger requests, or a model that is as cold as the one before was."""
    sizes = _of_sizes(reading, limits)
    slower = sum(now.requests for now, before in sizes if _is_slower(now, before, limits))
    if sizes and slower <= sum(now.requests for now, _ in sizes) / 2:
        return True
    aged = _known(reading.aged, limits)
    return aged is not None and aged.latency_s is not None and not _is_slower(reading.now, aged, limits)


def _of_sizes(reading: Reading, limits: Limits) -> list[tuple[Figures, Figures]]:
    """Return the figures of requests of one number of rows, where both versions had some."""
    least = max(LEAST_OF_SIZE, limits.min_requests / 5)
    return [pair for pair in reading.by_rows.values() if min(one.requests for one in pair) >= least]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def _ms(seconds: float | None) -> str:
    return f"{1000 * (seconds or 0.0):.1f} ms"


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a release.

    Attributes:
        judged: whether there was enough to judge by.
        bad: why it is bad; empty when it is not.
        stale: whether it is bad only by what the look before saw already: it counts neither as bad nor as good.
        unknown: why nothing could be asked; empty when it could.
        uncompared: why no source's latency was compared with another version's; empty when one was, or nobody wants it.
    """

    judged: bool = False
    bad: tuple[str, ...] = ()
    stale: bool = False
    unknown: str = ""
    uncompared: str = ""


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
    last = [look for look in looks if not look.stale][-max(bad_looks, 1) :]
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
