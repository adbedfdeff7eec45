"""The state of each model in numbers, and its metrics, which are collected at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """The state of one model, in numbers.

    Attributes:
        model: its name.
        version: the live version.
        generation: generation of the release; 0 with the local backend.
        release_age_s: since the release, seconds.
        staleness_s: since current.json or the alias was last read, seconds.
        swaps: changes of the live version that this process saw.
        failed_swaps: changes that failed because the new model could not be loaded (local backend).
        candidate_version: the version that shares in the traffic before it is committed; 0 for none.
        share_percent: share of the requests that the candidate answers.
        mirrored_percent: share of the requests that are mirrored to the candidate.
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


GAUGES: tuple[tuple[str, str, Callable[[ModelState], float]], ...] = (
    ("live_version", "Version that is live.", lambda state: state.version),
    ("release_generation", "Generation of the release that is live.", lambda state: state.generation),
    ("release_age_seconds", "Seconds since the release.", lambda state: state.release_age_s),
    (
        "release_staleness_seconds",
        "Seconds since current.json or the alias was last read.",
        lambda state: state.staleness_s,
    ),
    (
        "candidate_version",
        "Version that shares in the traffic before it is committed; 0 for none.",
        lambda state: state.candidate_version,
    ),
    (
        "canary_share_percent",
        "Share of the requests that the candidate answers.",
        lambda state: state.share_percent,
    ),
    (
        "shadow_share_percent",
        "Share of the requests that are mirrored to the candidate.",
        lambda state: state.mirrored_percent,
    ),
)
"""Gauges by model: name without ``gateway_``, help text, value."""

COUNTERS: tuple[tuple[str, str, Callable[[ModelState], float]], ...] = (
    ("swaps", "Changes of the live version seen.", lambda state: state.swaps),
    ("failed_swaps", "New models that failed to load.", lambda state: state.failed_swaps),
)
"""Counters by model, in the same form."""


class ModelStates:
    """Collects the states at the moment of the scrape.

    Args:
        states: the state of every model.
        waiting: length of the queue.
        in_flight: requests at the models.
    """

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
        """Yield the metrics, as they are now."""
        states = list(self._states())
        for family, metrics in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, text, value in metrics:
                metric = family(f"gateway_{name}", text, labels=["model"])
                for state in states:
                    metric.add_metric([state.model], value(state))
                yield metric
        yield GaugeMetricFamily(
            "gateway_queue_length", "Requests that wait for their turn.", value=self._waiting()
        )
        yield GaugeMetricFamily(
            "gateway_requests_in_flight",
            "Requests that the models have, those included whose answer a client still reads.",
            value=self._in_flight(),
        )
