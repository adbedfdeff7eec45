"""Counters of the requests to the version before the release."""

from __future__ import annotations

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

BOTH, ALONE, UNKNOWN, SKIPPED = "both", "alone", "unknown", "skipped"


class PredecessorMetrics:
    """Counts by model and version."""

    def __init__(self) -> None:
        labels = ["model", "version"]
        self._asked_again = Counter(
            "gateway_failed_asked_again",
            "Requests on which a release failed, by what the version before it made of them: it failed as well (both), it did not (alone), "
            "it did not say (unknown), or it was not asked, since one a second is enough (skipped).",
            [*labels, "outcome"],
            registry=None,
        )
        self._failures = Counter(
            "gateway_baseline_failures",
            "Requests of its share on which the version before failed; live was asked the same.",
            labels,
            registry=None,
        )

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (self._asked_again, self._failures)

    def begin(self, model: str, version: int, before: int | None) -> None:
        """Show zeros for a release and its predecessor, so that Prometheus sees the first failure."""
        if before is not None:
            self._failures.labels(model, before)
        for outcome in (BOTH, ALONE, UNKNOWN, SKIPPED):
            self._asked_again.labels(model, version, outcome)

    def asked_again(self, model: str, version: int, outcome: str) -> None:
        """Count a request on which a release failed."""
        self._asked_again.labels(model, version, outcome).inc()

    def failed(self, model: str, before: int) -> None:
        """Count a client's request on which the version before failed."""
        self._failures.labels(model, before).inc()
