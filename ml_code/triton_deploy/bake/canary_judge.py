"""Judges a candidate by what Prometheus saw of it beside the live version, by the same rules as a bake."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from ..canary_watch import Judgment, Verdict, Watched
from ..errors import DeployError
from ..settings import Settings
from .observer import Observer
from .policy import BakePolicy
from .prometheus import Metrics, Prometheus
from .queries import Queries, Span

QUERIES = Path(__file__).with_name("canary.toml")
BESIDE = "the live version meanwhile"
UNPLACED = "a gateway can't tell on which of its Tritons the candidate is, and sends it nothing: set GATEWAY_TRITON_GRPC_URLS there"
COUNTERS = ("gateway_canary_failures_total", "gateway_shadow_requests_total")


class CanaryJudge:
    """A judge for ``CanaryWatch``.

    Args:
        observer: sees the figures.
        metrics: who is asked whether the candidate's Triton ended; in no file of queries, so that none can leave it out.
    """

    def __init__(self, observer: Observer, metrics: Metrics) -> None:
        self._observer = observer
        self._metrics = metrics

    @classmethod
    def of(cls, settings: Settings) -> CanaryJudge:
        """Return the judge that the settings describe; raises Misconfigured when the file of queries can't be used."""
        metrics = Prometheus(settings.prometheus_url, settings.prometheus_timeout_s)
        queries = Queries.read(settings.canary_queries, QUERIES)
        return cls(Observer(queries, metrics, BakePolicy.of(settings).limits, beside=BESIDE), metrics)

    def __call__(self, watched: Watched) -> Judgment:
        """Look at the whole of the step so far, and whether it was lost since the first; see ``canary_watch.Judge``."""
        try:
            lost = self._lost(watched)
            judgment = lost or self._judged(watched)
            unplaced = judgment.verdict is Verdict.NO_DATA and self._counted("unplaced", watched)
        except DeployError as error:
            return Judgment(Verdict.NO_DATA, str(error))
        return replace(judgment, why=f"{judgment.why}; {UNPLACED}") if unplaced else judgment

    def _judged(self, watched: Watched) -> Judgment:
        window_s = max(1, int(watched.seconds))
        seen = self._observer.look(
            Span(watched.model, watched.candidate, window_s),
            Span(watched.model, watched.live, window_s),
            since=datetime.now(UTC),
        )
        figures = {one.source: asdict(one) for one in seen.readings}
        if seen.look.unknown:
            return Judgment(Verdict.NO_DATA, seen.look.unknown)
        if seen.look.bad:
            return Judgment(Verdict.FAIL, "; ".join(seen.look.bad), figures)
        saw = [
            f"{one.source} saw {one.now.requests:.0f} requests" for one in seen.readings if one.now.requests
        ]
        why = "; ".join(saw) or "no source saw a request"
        return Judgment(Verdict.PASS if seen.look.judged else Verdict.NO_DATA, why, figures)

    def _lost(self, watched: Watched) -> Judgment | None:
        """Return what there is to say of a candidate that a gateway does not ask any more; None when there is none."""
        ended = self._counted("ended", watched)
        if ended:
            return Judgment(
                Verdict.ENDED, f"{ended:.0f} connections to it ended within a request, as gateways counted"
            )
        if self._counted("absent", watched):
            return Judgment(
                Verdict.GONE, "a gateway did not reach or find it there, and sends it nothing more"
            )
        return None

    def _counted(self, outcome: str, watched: Watched) -> float:
        """Return how often gateways counted an outcome of the candidate's requests since it may have met its first client."""
        window_s = math.ceil(max(watched.seconds, watched.exposed_s, 1))
        query = " + ".join(_counted_query(counter, outcome) for counter in COUNTERS)
        return self._metrics.value(Span(watched.model, watched.candidate, window_s).fill(query)) or 0.0


def _counted_query(counter: str, outcome: str) -> str:
    """Return a query for how much a counter grew, of which Prometheus may have seen nothing before its first value.

    ``increase`` sees none of a counter that begins with 1, as after the restart of a gateway, and none of one that has one value.
    """
    series = f'{counter}{{model="$model", version="$version", outcome="{outcome}"}}'
    most = f"max_over_time({series}[$window])"
    return f"(sum({most} - ({series} offset $window or {most} * 0)) or vector(0))"
