"""Judges a candidate by what Prometheus saw of it beside the live version, by the same rules as a bake."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ..canary_watch import Judgment, Verdict, Watched
from ..settings import Settings
from .observer import Observer
from .policy import BakePolicy
from .prometheus import Prometheus
from .queries import Queries, Span

QUERIES = Path(__file__).with_name("canary.toml")
BESIDE = "the live version meanwhile"


class CanaryJudge:
    """A judge for ``CanaryWatch``.

    Args:
        observer: sees the figures.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    @classmethod
    def of(cls, settings: Settings) -> CanaryJudge:
        """Return the judge that the settings describe; raises Misconfigured when the file of queries can't be used."""
        metrics = Prometheus(settings.prometheus_url, settings.prometheus_timeout_s)
        queries = Queries.read(settings.canary_queries, QUERIES)
        return cls(Observer(queries, metrics, BakePolicy.of(settings).limits, beside=BESIDE))

    def __call__(self, watched: Watched) -> Judgment:
        """Look at the whole of the step so far; see ``canary_watch.Judge``."""
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
