"""What Prometheus is told, and the sums from which the page draws the last minutes.

With several workers each keeps its numbers in files of a common folder (``PROMETHEUS_MULTIPROC_DIR``), and whichever is
asked answers for all of them.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from .clients import FAILED, Clients

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DURATION = "gateway_request_duration_seconds"
FAILURES = FAILED | {"unavailable"}
"""Outcomes that count as errors of the service. The others are the client's doing: ``busy`` too, which says that it asked too much."""
FROM_THE_START = ("ok", "failed", "timeout")
"""Outcomes that are shown before there is one: Prometheus sees no increase of a series that begins with its first failure."""
ROWS = (1, 10, 100, 1000)
"""Largest numbers of rows of the classes of requests whose times are told apart."""
_CLASSES = (*map(str, ROWS), "more")


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What a backend knows about one model, in numbers.

    Attributes:
        model: its name.
        version: the live one.
        generation: of the release; 0 with the local backend.
        release_age_s: since the release, seconds.
        staleness_s: since current.json or the alias was last read, seconds.
        swaps: changes of version that this process saw.
        failed_swaps: changes that did not happen because the new model failed (local backend).
        candidate_version: the version that shares in the traffic before it is committed; 0 for none.
        share_percent: share of the requests that it answers.
        mirrored_percent: share of the requests that are mirrored to it.
    """

    model: str
    version: int
    generation: int
    release_age_s: float
    staleness_s: float
    swaps: int
    failed_swaps: int = 0
    candidate_version: int = 0
    share_percent: int = 0
    mirrored_percent: int = 0


class _States:
    """Collects the states at the moment of the scrape."""

    def __init__(
        self,
        states: Callable[[], Iterable[ModelState]],
        waiting: Callable[[], int],
        in_flight: Callable[[], int],
    ) -> None:
        self._states = states
        self._waiting = waiting
        self._in_flight = in_flight

    def collect(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"gateway_{name}", text, labels=["model"])
            for name, text in (
                ("live_version", "Version that is live."),
                ("release_generation", "Generation of the release that is live."),
                ("release_age_seconds", "Seconds since the release."),
                ("release_staleness_seconds", "Seconds since current.json or the alias was last read."),
                (
                    "candidate_version",
                    "Version that shares in the traffic before it is committed; 0 for none.",
                ),
                ("canary_share_percent", "Share of the requests that the candidate answers."),
                ("shadow_share_percent", "Share of the requests that are mirrored to the candidate."),
            )
        }
        swaps = CounterMetricFamily("gateway_swaps", "Changes of the live version seen.", labels=["model"])
        failed = CounterMetricFamily(
            "gateway_failed_swaps", "New models that failed to load.", labels=["model"]
        )
        for state in self._states():
            label = [state.model]
            gauges["live_version"].add_metric(label, state.version)
            gauges["release_generation"].add_metric(label, state.generation)
            gauges["release_age_seconds"].add_metric(label, state.release_age_s)
            gauges["release_staleness_seconds"].add_metric(label, state.staleness_s)
            gauges["candidate_version"].add_metric(label, state.candidate_version)
            gauges["canary_share_percent"].add_metric(label, state.share_percent)
            gauges["shadow_share_percent"].add_metric(label, state.mirrored_percent)
            swaps.add_metric(label, state.swaps)
            failed.add_metric(label, state.failed_swaps)
        yield from gauges.values()
        yield swaps
        yield failed
        yield GaugeMetricFamily(
            "gateway_queue_length", "Requests that wait for their turn.", value=self._waiting()
        )
        yield GaugeMetricFamily(
            "gateway_requests_in_flight",
            "Requests that the models have, those included whose answer a client still reads.",
            value=self._in_flight(),
        )


@dataclass(frozen=True)
class Sums:
    """Requests since the start: how many, how many failed, how many took at most each bucket's time."""

    count: float
    failed: float
    buckets: tuple[float, ...]


class Metrics:
    """All metrics of the process.

    Args:
        states: asked at each scrape.
        waiting: length of the queue.
        in_flight: requests that the models have.
        more: further metrics of this process.
    """

    def __init__(
        self,
        states: Callable[[], Iterable[ModelState]],
        waiting: Callable[[], int],
        in_flight: Callable[[], int],
        more: Iterable[MetricWrapperBase] = (),
    ) -> None:
        own = CollectorRegistry()
        self._duration = Histogram(
            DURATION,
            "Inference requests, from the head of the request to the end of the answer.",
            ["model", "version", "outcome"],
            registry=own,
            buckets=BUCKETS_S,
        )
        for metric in more:
            own.register(metric)
        self._batches = Histogram(
            "gateway_batch_duration_seconds",
            "Inference requests that were answered, by their number of rows: that many at most, and more than the class before.",
            ["model", "version", "rows"],
            registry=own,
            buckets=BUCKETS_S,
        )
        self._clients = Clients()
        for metric in self._clients.all:
            own.register(metric)
        self._state = states
        self._children: dict[tuple[Histogram, str, str, str], Histogram] = {}
        self._registry = own
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_States(states, waiting, in_flight))

    def observe(
        self, model: str, version: str, outcome: str, duration_s: float, rows: int = 0, client: bytes = b""
    ) -> None:
        """Count one inference request.

        Args:
            model: public model name.
            version: that answered, or should have.
            outcome: what became of it.
            duration_s: how long it took, seconds.
            rows: how many it asked about; 0 when that is not known.
            client: who asked, as ``clients.name_of`` says.
        """
        self._child(self._duration, model, version, outcome).observe(duration_s)
        if rows and outcome == "ok":
            self._child(self._batches, model, version, class_of(rows)).observe(duration_s)
        self._clients.seen(model, version, outcome, client)

    def refresh(self) -> None:
        """Bring up to date what changes without a request; not for a thread."""
        served = [
            (state.model, str(version))
            for state in self._state()
            for version in (state.version, state.candidate_version)
            if version
        ]
        for key in served:
            for outcome in FROM_THE_START:
                self._duration.labels(*key, outcome)
        self._clients.begin(served)
        self._clients.refresh()

    def _child(self, histogram: Histogram, model: str, version: str, label: str) -> Histogram:
        """Return a series; to find one by its labels takes longer than to count in it."""
        key = (histogram, model, version, label)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = histogram.labels(model, version, label)
        return child

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def sums(self) -> Sums:
        """Return the sums over all models, versions and workers."""
        count = failed = 0.0
        buckets = dict.fromkeys((*map(str, BUCKETS_S), "+Inf"), 0.0)
        for metric in self._registry.collect():
            if metric.name != DURATION:
                continue
            for sample in metric.samples:
                if sample.name.endswith("_bucket"):
                    buckets[sample.labels["le"]] += sample.value
                elif sample.name.endswith("_count"):
                    count += sample.value
                    failed += sample.value if sample.labels["outcome"] in FAILURES else 0
        return Sums(count, failed, tuple(buckets.values()))


def class_of(rows: int) -> str:
    """Return the class of a request by its number of rows: the largest that belongs to it, or ``more``."""
    return _CLASSES[bisect_left(ROWS, rows)]


class LastMinutes:
    """Rate, error rate and latency over the last minutes, from sums taken at intervals.

    Args:
        sums: gives the sums now.
        length: how many intervals are kept.
    """

    def __init__(self, sums: Callable[[], Sums], length: int = 60) -> None:
        self._sums = sums
        self._taken: deque[tuple[float, Sums]] = deque(maxlen=length + 1)

    def take(self, now: float) -> None:
        """Take the sums; called at each interval.

        Args:
            now: seconds since the epoch.
        """
        self._taken.append((now, self._sums()))

    def points(self) -> list[dict[str, float | None]]:
        """Return, for each interval, oldest first: end, requests a second, share that failed, p50 and p95 in seconds."""
        taken = list(self._taken)
        return [
            {
                "at": now,
                "rate": (after.count - before.count) / max(now - then, 1e-9),
                "failed": (after.failed - before.failed) / max(after.count - before.count, 1),
                "p50_s": quantile(0.50, before, after),
                "p95_s": quantile(0.95, before, after),
            }
            for (then, before), (now, after) in pairwise(taken)
        ]


def quantile(q: float, before: Sums, after: Sums) -> float | None:
    """Return a quantile of the requests between two sums, straight within a bucket; None without requests.

    Args:
        q: which, 0 to 1.
        before: sums at the beginning.
        after: sums at the end.
    """
    counts = [b - a for a, b in zip(before.buckets, after.buckets, strict=True)]
    wanted = q * counts[-1]
    if counts[-1] <= 0:
        return None
    below, lower_s = 0.0, 0.0
    for count, upper_s in zip(counts, BUCKETS_S, strict=False):
        if count >= wanted:
            share = (wanted - below) / (count - below) if count > below else 1.0
            return lower_s + share * (upper_s - lower_s)
        below, lower_s = count, upper_s
    return lower_s
