"""Decides from figures whether a release is bad; the same rules judge a canary.

Pure rules: standard library only, no I/O, time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .failure_evidence import Counts, Evidence

MOST_LOAD = 2.0
"""Ratio of loads above which the latencies of two times are not compared."""
LEAST_OF_SIZE = 10
"""Least requests with the same number of rows whose latency is compared, or a fifth of
``Limits.min_requests`` if that is more."""
LEAST_BEYOND = 0.1
"""Least size of the requests that another source did not see, as a share of those that it saw: fewer are
not judged."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits that a version has to keep.

    Attributes:
        min_requests: least number of requests for a judgment.
        min_clients: least number of clients with a failure, or all clients if there are fewer.
        max_failure_ratio: largest share of failed requests, 0 to 1.
        max_failure_rise: largest rise of that share over the compared version's, 0 to 1.
        max_latency_ratio: largest ratio to the compared version's latency; 0 is no limit.
        min_latency_rise_s: least rise of the latency that counts, whatever the ratio, seconds.
        max_latency_s: absolute limit of the latency, seconds; 0 is no limit.
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
    """The figures of one source about one version in one span of time.

    Attributes:
        requests: number of requests, failed requests included.
        failures: number of requests that failed by the service's fault.
        latency_s: a high quantile of the time to answer, or the mean where the source has no quantile,
            seconds. None if unknown.
        clients: number of clients; 0 if unknown.
        clients_failed: number of clients with a failure; 0 if unknown.
        both: failed requests that were repeated to the version before and failed there, too.
        alone: failed requests that were repeated to the version before and did not fail there.
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
        """Requests and failures."""
        return Counts(requests=self.requests, failures=self.failures)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One source's figures about a version, beside those of the version that it is compared with.

    Attributes:
        source: name of the source.
        now: figures of the judged version.
        before: figures of the compared version; None without one.
        beside: name of the compared version, for people.
        meanwhile: whether both versions served at the same time; else load, sizes and warmth may differ.
        elsewhere: counts of the same requests that another source saw, and judges.
        parts: ``now`` in equal parts of its time, without the counts of ``elsewhere``; empty if nothing
            failed.
        fresh: counts since the last check; None for all counts.
        fresh_latency_s: latency since the last check; None if unknown, or if it was not queried.
        load: ratio of the load to that of the compared version's time; None if unknown.
        by_rows: figures of the judged and of the compared version, by the number of rows of a request.
        aged: figures of the compared version at the same age, if ``before`` is from another time.
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
        """The counts to judge: without those that another source judges."""
        return self.now.counts.less(self.elsewhere) if self.elsewhere else self.now.counts

    def evidence(self) -> Evidence:
        """Return the evidence of failures for which the version alone is to blame.

        Some failed requests were repeated to the version before, which may have failed on them, too. The
        repeated requests are a sample of the failures, so all requests count in the same proportion.
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
    """Whether a source saw enough requests for a judgment, without those that another source judges."""
    least = float(max(limits.min_requests, 1))
    if reading.elsewhere is not None:
        # Two sources are never read at the same moment, so a small difference means nothing.
        least = max(least, LEAST_BEYOND * reading.elsewhere.requests)
    return reading.counts.requests >= least


def failing(reading: Reading, limits: Limits) -> Iterator[str]:
    """Yield the reason if a version fails too often.

    Args:
        reading: the figures of a source that saw enough requests.
        limits: the limits.
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
    """Yield the reason if a version is too slow; see ``failing``."""
    now, before = reading.now, reading.before
    took = f"{reading.source}: answers take {_ms(now.latency_s)}"
    if now.latency_s is not None and 0 < limits.max_latency_s < now.latency_s:
        yield f"{took}, the limit is {_ms(limits.max_latency_s)}"
    elif before is not None and _is_to_blame(reading, limits):
        yield f"{took}, {_ms(before.latency_s)} those of {reading.beside}"


def is_fresh(reading: Reading, limits: Limits) -> bool:
    """Whether failures above the limit came since the last check; else this check repeats the last one."""
    if reading.fresh is None:
        return True
    before = _measure(reading, limits)
    limit = limits.max_failure_ratio if before is None else before.share + limits.max_failure_rise
    return reading.fresh.share > limit


def is_still_slow(reading: Reading, limits: Limits) -> bool:
    """Whether answers since the last check were slow, or their latency is unknown; see ``is_fresh``."""
    latest = reading.fresh_latency_s
    if latest is None:
        return True
    limit_s = limits.max_latency_s
    return (0 < limit_s < latest) or _is_slower(
        replace(reading.now, latency_s=latest), _known(reading.before, limits), limits
    )


def is_slower(reading: Reading, limits: Limits) -> bool:
    """Whether a version is slower than the compared version, for any reason."""
    return _is_slower(reading.now, _known(reading.before, limits), limits)


def uncompared(reading: Reading, limits: Limits) -> str:
    """Return why a source's latency was not compared; empty if it was, or if the limits do not ask for it."""
    if limits.max_latency_ratio <= 0:
        return ""
    before = _known(reading.before, limits)
    if before is None or before.latency_s is None:
        return "nothing is known of another version's"
    if reading.now.latency_s is None:
        return "nothing is known of its own"
    return _incomparable(reading, limits) if is_slower(reading, limits) else ""


def remarks(reading: Reading, limits: Limits) -> Iterator[str]:
    """Yield remarks for people on a source that saw enough requests and has no complaint."""
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
    """Return the counts of the compared version; None if it had too few requests.

    Failures that both versions would have had are left out, as they are from the evidence.
    """
    before = _known(reading.before, limits)
    if before is None:
        return None
    shared = max(0.0, reading.counts.share - reading.evidence().counts.share)
    return Counts(requests=before.requests, failures=max(0.0, before.failures - shared * before.requests))


def _known(figures: Figures | None, limits: Limits) -> Figures | None:
    return figures if figures is not None and figures.requests >= max(limits.min_requests, 1) else None


def _needs_clients(now: Figures, limits: Limits) -> bool:
    """Whether few clients had a failure, and may be at fault; false if the source does not count them."""
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
    """Return why a worse latency can't be compared with the latency of another time; empty when it can."""
    if reading.meanwhile:
        return ""
    if reading.load is not None and reading.load > MOST_LOAD:
        return f"there is {_times(reading.load)} the load that {reading.beside} had"
    if reading.by_rows and not _of_sizes(reading, limits):
        return f"its requests have other numbers of rows than those of {reading.beside}"
    return ""


def _is_explained(reading: Reading, limits: Limits) -> bool:
    """Whether larger requests, or a model as cold as the one before was, explain a worse latency."""
    sizes = _of_sizes(reading, limits)
    slower = sum(now.requests for now, before in sizes if _is_slower(now, before, limits))
    if sizes and slower <= sum(now.requests for now, _ in sizes) / 2:
        return True
    aged = _known(reading.aged, limits)
    return aged is not None and aged.latency_s is not None and not _is_slower(reading.now, aged, limits)


def _of_sizes(reading: Reading, limits: Limits) -> list[tuple[Figures, Figures]]:
    """Return both versions' figures for each number of rows of which both had enough requests."""
    least = max(LEAST_OF_SIZE, limits.min_requests / 5)
    return [pair for pair in reading.by_rows.values() if min(one.requests for one in pair) >= least]


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def _ms(seconds: float | None) -> str:
    return f"{1000 * (seconds or 0.0):.1f} ms"


@dataclass(frozen=True, kw_only=True)
class Look:
    """One check of a release.

    Attributes:
        judged: whether there were enough requests for a judgment.
        bad: why the release is bad; empty if it is not.
        stale: whether only evidence of the check before makes it bad: the check counts neither as bad nor
            as good.
        unknown: why no source could be queried; empty if one could.
        uncompared: why no source's latency was compared; empty if one was, or if the limits do not ask
            for it.
    """

    judged: bool = False
    bad: tuple[str, ...] = ()
    stale: bool = False
    unknown: str = ""
    uncompared: str = ""


class Course(StrEnum):
    """The course of a bake after a check."""

    GOES_ON = "goes_on"
    PASSED = "passed"
    FAILED = "failed"
    NO_DATA = "no_data"


def course(looks: Sequence[Look], *, bad_looks: int, over: bool, patience: int) -> Course:
    """Return the course of a bake.

    Args:
        looks: all checks so far, oldest first. The last check of a bake whose time is over covers the
            whole bake.
        bad_looks: consecutive bad checks that fail the bake before its end.
        over: whether the bake's time is over.
        patience: consecutive unknown checks at the end after which the bake ends without data.
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
