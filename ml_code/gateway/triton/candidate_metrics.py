"""Counters and times of candidates: canaries that fell back to the live version, and shadows."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from ..http.metrics import BUCKETS_S
from .comparison import Difference

ENDED, ABSENT, UNPLACED = "ended", "absent", "unplaced"
LOST = (ENDED, ABSENT, UNPLACED)
"""Outcomes of a candidate that gets nothing more from a gateway, or never got anything."""
DROPPED = "dropped"
"""Outcome of a request that was not mirrored because the gateway was busy, or the deployment over."""
_GAPS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


class CandidateMetrics:
    """Counts by model and version of the candidate."""

    def __init__(self) -> None:
        labels = ["model", "version"]
        self._canary_failures = Counter(
            "gateway_canary_failures",
            "Requests that were a canary's and that it did not answer: live did (failed), or did not either (both); its Triton ended "
            "(ended), or does not have it (absent); this gateway can't tell which Triton it is on (unplaced).",
            [*labels, "outcome"],
            registry=None,
        )
        self._shadows = Counter(
            "gateway_shadow_requests",
            "Requests that were to be mirrored to a candidate, by what became of them.",
            [*labels, "outcome"],
            registry=None,
        )
        self._seconds = Histogram(
            "gateway_shadow_duration_seconds",
            "Time that Triton took for a mirrored request, of the live version and of the candidate.",
            labels,
            registry=None,
            buckets=BUCKETS_S,
        )
        self._gaps = Histogram(
            "gateway_shadow_difference",
            "Largest difference of two numbers in the answers to a mirrored request, absolute or in relation to live's.",
            [*labels, "kind"],
            registry=None,
            buckets=_GAPS,
        )
        self._disagreements = Counter(
            "gateway_shadow_disagreements",
            "Mirrored requests with a row for which live and candidate name different labels.",
            labels,
            registry=None,
        )
        self._compared = Counter(
            "gateway_shadow_compared",
            "Outputs in the answers to mirrored requests, by whether live's and the candidate's are the same within the model's tolerance.",
            [*labels, "output", "outcome"],
            registry=None,
        )

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (
            self._canary_failures,
            self._shadows,
            self._seconds,
            self._gaps,
            self._disagreements,
            self._compared,
        )

    def begin(self, model: str, version: int) -> None:
        """Show zeros for a new candidate, so that Prometheus sees the first failure as an increase."""
        for outcome in ("failed", "both", *LOST):
            self._canary_failures.labels(model, version, outcome)
        for outcome in LOST:
            self._shadows.labels(model, version, outcome)

    def canary_failed(self, model: str, version: int, outcome: str) -> None:
        """Count a request that a canary did not answer."""
        self._canary_failures.labels(model, version, outcome).inc()

    def shadow(self, model: str, version: int, outcome: str) -> None:
        """Count a request that was to be mirrored."""
        self._shadows.labels(model, version, outcome).inc()

    def compared(
        self, model: str, version: int, difference: Difference, times_s: Mapping[str, float]
    ) -> None:
        """Count the comparison of two answers to one request.

        Args:
            model: public model name.
            version: the candidate.
            difference: between its answer and live's.
            times_s: duration of each answer by version, seconds.
        """
        for which, seconds in times_s.items():
            self._seconds.labels(model, which).observe(seconds)
        self._gaps.labels(model, version, "absolute").observe(difference.absolute)
        self._gaps.labels(model, version, "relative").observe(difference.relative)
        if difference.disagree:
            self._disagreements.labels(model, version).inc()
        for output, same in difference.outputs.items():
            for outcome, count in (("same", same), ("differs", not same)):
                # Both series begin at once, so that Prometheus sees the first difference as an increase.
                self._compared.labels(model, version, output, outcome).inc(count)
