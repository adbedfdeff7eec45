"""One look at a version: reads figures, checks and alerts, and has the rules judge them."""

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
    """One look, its readings, and remarks on it for people."""

    look: Look
    readings: tuple[Reading, ...] = ()
    remarks: tuple[str, ...] = ()


class Observer:
    """Looks at one version, and at the version that it is compared with.

    Args:
        queries: the queries of each source, and the user's checks.
        metrics: Prometheus.
        limits: limits that the version has to keep.
        alerts: Alertmanager, and the names of the alerts that count.
        part_s: shortest part of a look's window to query, seconds; at least Prometheus' scrape interval.
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
        """Look once. A Prometheus that does not answer gives a look without a result, never a bad one.

        Args:
            now: the version that is judged, and the window.
            baselines: versions and times to compare with; the first that saw enough requests is used.
            since: alerts that began to fire earlier are not of this version.
            fresh_s: time since the last look, seconds; None judges all as new.

        Raises:
            Misconfigured, AccessDenied: the server refuses, is another program, or rejects a query.
                Waiting does not mend these.
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
        """Return look and remarks by the readings, and by ``bad``, the complaints of checks and alerts."""
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
        """Return the complaints about firing alerts, and a remark when Alertmanager can't be reached."""
        if self._alerts is None:
            return [], []
        alerts, names = self._alerts
        try:
            firing = alerts.firing(since)
        except Unavailable as error:
            # The figures are known, and count without the alerts.
            log.warning("the alerts are not known: %s", error)
            return [], [f"the alerts are not known: {error.message}"]
        return [f"alert {name} fires" for name in names if firing & {Firing(name), Firing(name, model)}], []
