"""The counters of what happens between the gateway and the Tritons."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client.metrics import MetricWrapperBase

from ..http.repeats import Repeats
from .candidate_metrics import CandidateMetrics
from .predecessor_metrics import PredecessorMetrics


@dataclass(frozen=True)
class TritonMetrics:
    """Counters that the gateway shows with either backend.

    Attributes:
        candidates: requests to candidates.
        repeats: requests that were repeated on a second Triton.
        predecessors: requests to the version before the release.
    """

    candidates: CandidateMetrics = field(default_factory=CandidateMetrics)
    repeats: Repeats = field(default_factory=Repeats)
    predecessors: PredecessorMetrics = field(default_factory=PredecessorMetrics)

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (*self.candidates.all, *self.repeats.all, *self.predecessors.all)
