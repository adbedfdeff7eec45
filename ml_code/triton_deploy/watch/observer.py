"""What Prometheus and Alertmanager say of a version: the readings that the rules judge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ..clients.prometheus import Alerts, Firing, Metrics
from ..errors import Unavailable
from ..rules.bake_rules import (
    Limits,
    Look,
    Reading,
    failing,
    is_enough,
    is_fresh,
    is_still_slow,
    remarks,
    slow,
    uncompared,
)
from .queries import Queries, Span
from .readings import Baseline, Readings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """One look, the readings that it is of, and what people should know of it."""

    look: Look
    readings: tuple[Reading, ...] = ()
    remarks: tuple[str, ...] = ()


class Observer:
    """Asks about one version, and the version that it is compared with.

    Args:
        queries: what to ask.
        metrics: whom.
        limits: what the version has to keep.
        alerts: who knows which alerts fire, and the names of those that count.
        part_s: shortest part of a look's time that is worth a query, seconds; not less than Prometheus' scrape interval.
    """

    def __init__(
        self,
        queries: Queries,
        metrics: Metrics,
        limits: Limits,
        alerts: tuple[Alerts, Sequence[str]] | None = None,
        part_s: float = 15.0,
    ) -> None:
        self._queries = queries
        self._metrics = metrics
        self._readings = Readings(queries, metrics, limits, part_s)
        self._limits = limits
        self._alerts = alerts

    def look(
        self,
        now: Span,
        baselines: Sequence[Baseline],
        since: datetime,
        fresh_s: int | None = None,
    ) -> Observed:
        """Look once; who does not answer makes it a look without a result, and never a bad one.

        Args:
            now: the version that is judged, and the time.
            baselines: what it may be compared with: the first that saw enough is.
            since: alerts that began to fire before are not of this version.
            fresh_s: how long ago the last look was, seconds; None judges all as new.

        Raises:
            Misconfigured, AccessDenied: whoever is asked refuses, is something else, or does not take a query: to wait mends nothing.
        """
        try:
            readings = self._readings.read(now, baselines, fresh_s)
            checked = self._checks(now)
        except Unavailable as error:
            log.warning("%s can't be looked at: %s", now.model, error)
            return Observed(Look(unknown=str(error)))
        firing, unasked = self._firing(now.model, since)
        look, told = self._judged(readings, [*checked, *firing])
        return Observed(look, tuple(replace(one, parts=()) for one in readings), (*told, *unasked))

    def _judged(self, readings: Sequence[Reading], bad: Sequence[str]) -> tuple[Look, tuple[str, ...]]:
        """Return the look that readings come to beside what is bad by checks and alerts, and the remarks."""
        limits = self._limits
        enough = [one for one in readings if is_enough(one, limits)]
        failures = [(line, is_fresh(one, limits)) for one in enough for line in failing(one, limits)]
        latencies = [(line, is_still_slow(one, limits)) for one in enough for line in slow(one, limits)]
        why_not = [uncompared(one, limits) for one in enough]
        look = Look(
            judged=bool(enough),
            bad=(*(line for line, _ in (*failures, *latencies)), *bad),
            stale=bool(failures or latencies)
            and not bad
            and not any(new for _, new in (*failures, *latencies)),
            uncompared=why_not[0] if why_not and all(why_not) else "",
        )
        return look, tuple(line for one in enough for line in remarks(one, limits))

    def _checks(self, now: Span) -> list[str]:
        found = []
        for check in self._queries.checks:
            value = self._metrics.value(now.fill(check.query))
            if value is not None and value > check.limit:
                found.append(f"{check.name} is {value:g}, the limit is {check.limit:g}")
        return found

    def _firing(self, model: str, since: datetime) -> tuple[list[str], list[str]]:
        """Return which of the alerts fire, and what is to be said when nobody tells."""
        if self._alerts is None:
            return [], []
        alerts, names = self._alerts
        try:
            firing = alerts.firing(since)
        except Unavailable as error:
            # The figures have been seen: they count without the alerts.
            log.warning("the alerts are not known: %s", error)
            return [], [f"the alerts are not known: {error.message}"]
        return [f"alert {name} fires" for name in names if firing & {Firing(name), Firing(name, model)}], []
