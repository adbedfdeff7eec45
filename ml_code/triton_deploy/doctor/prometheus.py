"""Checks Prometheus and Alertmanager: whether a bake and a canary could judge a release by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from ..clients.prometheus import Alertmanager, Prometheus
from ..errors import AccessDenied, DeployError, Misconfigured
from ..repository import ModelFolder, models_in
from ..rules.release import Release
from ..settings import Settings
from ..watch import canary_judge
from ..watch.queries import BEYOND, ROWS, Queries, Span
from .check import Finding, Report

NONE = "There is none: TRITON_DEPLOY_PROMETHEUS_URL is not set. No release bakes, and no canary or shadow is taken on."
SET_ONE = "Set it for whoever deploys, for Airflow's workers and its triggerer; deploy/prometheus has a configuration."
MOST_MODELS = 20
"""Most models whose series are looked for."""
YOUNG_S = 300
"""A younger release still is in its first minutes, seconds."""
SCRAPES_A_WINDOW = 4
"""Least scrapes within a window, for a rate to cover the window."""
COUNTERS = ("gateway_request_duration_seconds_count", "nv_inference_request_success")
"""A counter of the gateways and one of Triton, whatever the names of their scrape jobs."""
SHIPPED = "deploy/prometheus/prometheus.yml scrapes gateways and Tritons: compare yours with it."


@dataclass(frozen=True)
class Live:
    """A model and its live release."""

    model: str
    release: Release


class PrometheusCheck:
    """Sends the queries of a bake and a canary.

    Args:
        settings: addresses of Prometheus and Alertmanager, and the place of the repository.
        clock: this machine's clock, seconds since 1970.
    """

    name = "Prometheus"
    needs = (
        "TRITON_DEPLOY_PROMETHEUS_URL",
        "TRITON_DEPLOY_PROMETHEUS_TIMEOUT_S",
        "TRITON_DEPLOY_ALERTMANAGER_URL",
        "TRITON_DEPLOY_BAKE_ALERTS",
        "TRITON_DEPLOY_BAKE_QUERIES",
        "TRITON_DEPLOY_CANARY_QUERIES",
        "TRITON_DEPLOY_BAKE_WINDOW_S",
    )
    deadline_s = 30.0

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._report = Report(self.name)

    def look(self) -> Iterator[Finding]:
        """See DoctorCheck.look."""
        if not self._settings.bake.prometheus_url:
            yield self._report.unknown(NONE, SET_ONE)
            return
        # An error of this query becomes the finding.
        metrics = Prometheus(self._settings.bake.prometheus_url, self._settings.bake.prometheus_timeout_s)
        metrics.value("1")
        yield self._report.ok("It answers, and takes queries.")
        live = self._live()
        seen = [one for one in live if metrics.value(_series_of(one.model))]
        yield from self._series(metrics, live, seen)
        yield from self._queries(metrics, live)
        yield from self._scraped(metrics)
        yield from self._kept(metrics, seen)
        yield from self._alerting(metrics)

    def clean_up(self) -> None:
        """See DoctorCheck.clean_up; this check leaves nothing behind."""

    def _live(self) -> list[Live]:
        """Return the first models with a live release; RepositoryCheck reports an unreadable repository."""
        found: list[Live] = []
        try:
            for model in islice(models_in(self._settings.repository_root), MOST_MODELS):
                release = ModelFolder.at(self._settings.repository_root, model).releases.latest()
                if release is not None:
                    found.append(Live(model, release))
        except DeployError:
            pass
        return found

    def _series(self, metrics: Prometheus, live: Sequence[Live], seen: Sequence[Live]) -> Iterator[Finding]:
        gateways = metrics.value(f"count(group by (instance) ({COUNTERS[0]}))")
        if gateways:
            yield self._report.ok(
                f"It has the figures of {gateways:.0f} gateway{'s' if gateways > 1 else ''}."
            )
        else:
            yield self._report.warning(
                "It has no figures of a gateway: latencies are means, and nobody tells which clients failed.",
                SHIPPED,
            )
        if unseen := [one for one in live if one not in seen]:
            yield self._report.warning(
                f"It has no figures of what is live of {_names(unseen)}: no release there could be judged.",
                f"Nobody has asked for it yet, or Prometheus is that of another installation. {SHIPPED}",
            )
        elif live:
            yield self._report.ok(f"It has figures of what is live: {_names(live)}.")

    def _queries(self, metrics: Prometheus, live: Sequence[Live]) -> Iterator[Finding]:
        """Send every query of both files, about a live model or else about the default model."""
        about = live[0] if live else None
        span = Span(
            about.model if about else self._settings.default_model,
            about.release.active_version if about else 1,
            max(1, int(self._settings.bake.window_s)),
        )
        asked = refused = 0
        for variable, queries in self._files():
            for name, query in _every(queries, span):
                asked += 1
                try:
                    metrics.value(query)
                except (Misconfigured, AccessDenied) as error:
                    refused += 1
                    yield self._report.failed(
                        f"{name} of {variable} is not taken: {error.message}", "Correct it in that file."
                    )
        if not refused:
            yield self._report.ok(f"It takes all {asked} queries of bake and canary.")

    def _files(self) -> Iterator[tuple[str, Queries]]:
        yield "TRITON_DEPLOY_BAKE_QUERIES", Queries.read(self._settings.bake.queries)
        yield (
            "TRITON_DEPLOY_CANARY_QUERIES",
            Queries.read(self._settings.canary.queries, canary_judge.QUERIES),
        )

    def _scraped(self, metrics: Prometheus) -> Iterator[Finding]:
        try:
            jobs, intervals_s = metrics.jobs(COUNTERS), metrics.scrape_intervals_s()
        except Misconfigured:
            yield self._report.unknown("It does not tell how often it scrapes.", _at_least(self._settings))
            return
        known = {job: intervals_s[job] for job in sorted(jobs) if job in intervals_s}
        slow = {
            job: interval_s
            for job, interval_s in known.items()
            if SCRAPES_A_WINDOW * interval_s > self._settings.bake.window_s
        }
        for job, interval_s in slow.items():
            yield self._report.warning(
                f"It scrapes {job} every {interval_s:g} s, and a look of the bake looks back {self._settings.bake.window_s:g} s: "
                f"fewer than {SCRAPES_A_WINDOW} scrapes.",
                f"Scrape more often, or set TRITON_DEPLOY_BAKE_WINDOW_S to {SCRAPES_A_WINDOW * interval_s:g} or more.",
            )
        if known and not slow:
            yield self._report.ok(f"It scrapes {', '.join(known)} often enough for the bake's window.")
        if not known:
            yield self._report.unknown(
                "How often gateways and Tritons are scraped is not known: it scrapes neither itself.",
                _at_least(self._settings),
            )

    def _kept(self, metrics: Prometheus, seen: Sequence[Live]) -> Iterator[Finding]:
        """Check that Prometheus has the first minutes of each live release.

        Prometheus may be younger than the release, or its retention too short.
        """
        now = datetime.fromtimestamp(self._clock(), UTC)
        asked, lost = [], []
        for one in seen:
            age_s = (now - datetime.fromisoformat(one.release.updated_at_utc)).total_seconds()
            if age_s > YOUNG_S:
                asked.append(one)
                if not metrics.value(_series_of(one.model, offset_s=int(age_s - YOUNG_S / 2))):
                    lost.append(one)
        if lost:
            yield self._report.warning(
                f"It has no figures of the first minutes of what is live of {_names(lost)}: the latency of the next release can't be "
                "compared with them, only with the last ones.",
                "Where Prometheus is new, nothing: it passes. Else start it with a longer --storage.tsdb.retention.time.",
            )
        elif asked:
            yield self._report.ok("It has figures of the first minutes of what is live.")

    def _alerting(self, metrics: Prometheus) -> Iterator[Finding]:
        if not self._settings.bake.alertmanager_url:
            return
        try:
            alerts = Alertmanager(
                self._settings.bake.alertmanager_url, self._settings.bake.prometheus_timeout_s
            )
            alerts.firing(datetime.fromtimestamp(self._clock(), UTC))
        except DeployError as error:
            yield self._report.failed(error.message, error.hint)
            return
        yield self._report.ok("Alertmanager answers.")
        try:
            known = metrics.alert_names()
        except Misconfigured:
            yield self._report.unknown("It does not tell which alerts it has.")
            return
        if missing := [name for name in self._settings.bake.alerts if name not in known]:
            yield self._report.failed(
                f"It has no alert of the name {', '.join(missing)}: it would fail no bake.",
                "Correct TRITON_DEPLOY_BAKE_ALERTS, or load the rule into Prometheus.",
            )


def _series_of(model: str, offset_s: int = 0) -> str:
    """Return a query for the number of a model's series, ``offset_s`` seconds ago."""
    offset = f" offset {offset_s}s" if offset_s else ""
    counters = (f'{name}{{model="{model}"}}{offset}' for name in COUNTERS)
    return f"count({' or '.join(counters)})"


def _names(some: Sequence[Live]) -> str:
    return ", ".join(one.model for one in some[:5]) + (", …" if len(some) > 5 else "")


def _every(queries: Queries, span: Span) -> Iterator[tuple[str, str]]:
    """Yield the name of every query in a file, and the query itself, filled in for a span."""
    for source, table in queries.sources.items():
        for kind, query in table.items():
            if kind != BEYOND:
                yield f"[sources.{source}] {kind}", span.fill(query, ROWS[0])
    for check in queries.checks:
        yield f"The check {check.name!r}", span.fill(check.query)


def _at_least(settings: Settings) -> str:
    return f"See that gateways and Tritons are scraped every {settings.bake.window_s / SCRAPES_A_WINDOW:g} s or more often."
