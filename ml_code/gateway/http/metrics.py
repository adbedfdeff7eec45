"""Metrics of the inference requests, for Prometheus and for the page.

Several workers keep their numbers in files of a common folder (``PROMETHEUS_MULTIPROC_DIR``), so that each
worker can answer a scrape for all.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from .clients import FAILED, Clients
from .model_states import ModelState, ModelStates

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DURATION = "gateway_request_duration_seconds"
FAILURES = FAILED | {"unavailable"}
"""Outcomes that count as errors of the service; clients cause the others, also ``busy``."""
FROM_THE_START = ("ok", "failed", "timeout")
"""Outcomes with zeros from the start, so that Prometheus sees the first failure as an increase."""
ROWS = (1, 10, 100, 1000)
"""Largest number of rows of each class of requests; each class has a histogram of its own."""
_CLASSES = (*map(str, ROWS), "more")


@dataclass(frozen=True)
class Sums:
    """Requests since the start: all, those that failed, and those within the upper limit of each bucket."""

    count: float = 0.0
    failed: float = 0.0
    buckets: tuple[float, ...] = (0.0,) * (len(BUCKETS_S) + 1)

    def __add__(self, other: Sums) -> Sums:
        """Return the sums of both together."""
        return self._each(other, lambda a, b: a + b)

    def __sub__(self, earlier: Sums) -> Sums:
        """Return the sums of what came after ``earlier``."""
        return self._each(earlier, lambda a, b: a - b)

    def _each(self, other: Sums, of: Callable[[float, float], float]) -> Sums:
        buckets = tuple(map(of, self.buckets, other.buckets))
        return Sums(of(self.count, other.count), of(self.failed, other.failed), buckets)


class Metrics:
    """All metrics of the process.

    Args:
        states: the state of every model, called at each scrape.
        waiting: length of the queue.
        in_flight: requests at the models.
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
        self._registry.register(ModelStates(states, waiting, in_flight))

    def observe(
        self, model: str, version: str, outcome: str, duration_s: float, rows: int = 0, client: bytes = b""
    ) -> None:
        """Count one inference request.

        Args:
            model: public model name.
            version: the version that answered, or should have.
            outcome: ``ok``, or the outcome of a GatewayError.
            duration_s: duration of the request, seconds.
            rows: number of rows; 0 when it is not known.
            client: the client, as ``clients.name_of`` returns it.
        """
        self._child(self._duration, model, version, outcome).observe(duration_s)
        if rows and outcome == "ok":
            self._child(self._batches, model, version, class_of(rows)).observe(duration_s)
        self._clients.seen(model, version, outcome, client)

    def refresh(self) -> None:
        """Update the metrics that change without a request; call it on the event loop."""
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
        """Return a series from the cache: looking it up by its labels costs more than counting in it."""
        key = (histogram, model, version, label)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = histogram.labels(model, version, label)
        return child

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def sums(self) -> dict[tuple[str, str], Sums]:
        """Return the sums over all outcomes and workers, by model and version."""
        limits = {limit: place for place, limit in enumerate((*map(str, BUCKETS_S), "+Inf"))}
        found: dict[tuple[str, str], list[float]] = {}
        for metric in self._registry.collect():
            if metric.name != DURATION:
                continue
            for sample in metric.samples:
                labels = sample.labels
                # Count, failures, and the buckets.
                sums = found.setdefault((labels["model"], labels["version"]), [0.0] * (2 + len(limits)))
                if sample.name.endswith("_bucket"):
                    sums[2 + limits[labels["le"]]] += sample.value
                elif sample.name.endswith("_count"):
                    sums[0] += sample.value
                    sums[1] += sample.value if labels["outcome"] in FAILURES else 0
        return {key: Sums(sums[0], sums[1], tuple(sums[2:])) for key, sums in found.items()}


def class_of(rows: int) -> str:
    """Return the class of a request by its number of rows: the largest number of its class, or ``more``."""
    return _CLASSES[bisect_left(ROWS, rows)]
