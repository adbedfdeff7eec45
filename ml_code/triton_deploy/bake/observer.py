"""What Prometheus and Alertmanager say of a version: the readings that the rules judge."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..errors import DeployError
from .prometheus import Alerts, Metrics
from .queries import Queries, Span
from .rules import Figures, Limits, Look, Reading, complaints, is_enough

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """One look, and the readings that it is of."""

    look: Look
    readings: tuple[Reading, ...] = ()


class Observer:
    """Asks about one version, and the version that it is compared with.

    Args:
        queries: what to ask.
        metrics: whom.
        limits: what the version has to keep.
        alerts: who knows which alerts fire, and the names of those that count.
    """

    def __init__(
        self,
        queries: Queries,
        metrics: Metrics,
        limits: Limits,
        alerts: tuple[Alerts, Sequence[str]] | None = None,
    ) -> None:
        self._queries = queries
        self._metrics = metrics
        self._limits = limits
        self._alerts = alerts

    def look(self, now: Span, before: Span | None, since: datetime) -> Observed:
        """Look once; who does not answer makes it a look without a result, and never a bad one.

        Args:
            now: the version that is judged, and the time.
            before: what it is compared with, or None.
            since: alerts that began to fire before are not of this version.
        """
        try:
            readings = tuple(self._readings(now, before))
            bad = [
                line
                for one in readings
                if is_enough(one, self._limits)
                for line in complaints(one, self._limits)
            ]
            bad += self._checks(now)
        except DeployError as error:
            log.warning("%s can't be looked at: %s", now.model, error)
            return Observed(Look(unknown=str(error)))
        bad += self._firing(now.model, since)
        judged = any(is_enough(one, self._limits) for one in readings)
        return Observed(Look(judged=judged, bad=tuple(bad)), readings)

    def _readings(self, now: Span, before: Span | None) -> list[Reading]:
        found = []
        for name, queries in self._queries.sources.items():
            figures = self._figures(queries, now)
            # Who saw nothing now is not asked what was.
            compared = self._figures(queries, before) if before is not None and figures.requests > 0 else None
            found.append(Reading(source=name, now=figures, before=compared))
        return found

    def _figures(self, queries: Mapping[str, str], span: Span) -> Figures:
        requests = self._metrics.value(span.fill(queries["requests"])) or 0.0
        if requests <= 0:
            return Figures(requests=0, failures=0, latency_s=None)
        return Figures(
            requests=requests,
            failures=self._metrics.value(span.fill(queries["failures"])) or 0.0,
            latency_s=self._metrics.value(span.fill(queries["latency_s"])),
        )

    def _checks(self, now: Span) -> list[str]:
        found = []
        for check in self._queries.checks:
            value = self._metrics.value(now.fill(check.query))
            if value is not None and value > check.limit:
                found.append(f"{check.name} is {value:g}, the limit is {check.limit:g}")
        return found

    def _firing(self, model: str, since: datetime) -> list[str]:
        if self._alerts is None:
            return []
        alerts, names = self._alerts
        try:
            firing = alerts.firing(since)
        except DeployError as error:
            # The figures have been seen: they count without the alerts.
            log.warning("the alerts are not known: %s", error)
            return []
        return [f"alert {name} fires" for name in names if firing.get(name) in ("", model)]
