"""Watches one release, look by look, until a verdict. Changes nothing; its state may be lost at any time."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ..clients.prometheus import Alertmanager, Prometheus
from ..errors import AccessDenied, DeployError, Misconfigured, NotFound
from ..repository import ModelFolder
from ..rules.bake_record import Bake, BakeVerdict
from ..rules.bake_rules import Course, Look, Reading, course
from ..rules.deployment import State
from ..rules.moments import utc_text
from ..rules.release import Release
from ..settings import Settings
from .observer import Observed, Observer
from .policy import BakePolicy
from .queries import Queries, Span
from .readings import Baseline

PATIENCE = 4
"""Number of looks, from the end of a bake on, after which a Prometheus that does not answer means no data."""
LEAST_SHARE = 0.04
"""Least requests of the previous release for each of the new one, to compare both at the same time.

Fewer are leftovers: requests that gateways still sent at the moment of the commit.
"""

log = logging.getLogger(__name__)


class Watch:
    """The watch over one release.

    The watch keeps its looks in memory only. After a restart of the process a new watch looks at the rest of
    the time, and its last look judges the whole.

    Args:
        folder: the model's place in the repository.
        generation: the generation of the release.
        policy: duration, pace and limits of the watch.
        observer: reads and judges the figures.
        clock: returns the time, aware.

    Raises:
        NotFound: the release does not exist.
        StorageFailed: the repository can't be read.
    """

    def __init__(
        self,
        folder: ModelFolder,
        generation: int,
        policy: BakePolicy,
        observer: Observer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder, self._policy, self._observer, self._clock = folder, policy, observer, clock
        newest_first = iter(folder.releases.history())
        release = next((one for one in newest_first if one.generation == generation), None)
        if release is None:
            raise NotFound(
                f"There is no release {generation} of {folder.model}.",
                hint="'triton-deploy history' lists the releases.",
            )
        self.release: Release = release
        self._before = next(newest_first, None)
        self._began = datetime.fromisoformat(release.updated_at_utc)
        self._flipped = self._time_of_flip()
        self._looks: list[Look] = []
        self._readings: tuple[Reading, ...] = ()
        self._remarks: tuple[str, ...] = ()
        self._looked: datetime | None = None

    @classmethod
    def of(cls, settings: Settings, model: str, generation: int, policy: BakePolicy) -> Watch:
        """Return a watch with the servers and queries of the settings.

        Raises:
            Misconfigured: the file of queries, or the repository, can't be used.
            NotFound, StorageFailed: see ``Watch``.
        """
        timeout_s = settings.bake.prometheus_timeout_s
        alerts = (
            (Alertmanager(settings.bake.alertmanager_url, timeout_s), policy.alerts)
            if policy.alerts
            else None
        )
        observer = Observer(
            Queries.read(settings.bake.queries),
            Prometheus(settings.bake.prometheus_url, timeout_s),
            policy.limits,
            alerts,
            part_s=policy.interval_s,
        )
        return cls(ModelFolder.at(settings.repository_root, model), generation, policy, observer)

    def look(self) -> Bake | None:
        """Look once; return the ended bake, or None while it goes on.

        A repository that can't be read makes a look without a result: that is no reason to revert a release.

        Raises:
            Misconfigured, AccessDenied: Prometheus or Alertmanager refuses, is another program, or rejects a
                query, at the first look or at ``PATIENCE`` looks in a row, by when a proxy has restarted. The
                release stays live.
        """
        now = self._clock()
        try:
            live = self._folder.releases.latest()
        except DeployError as error:
            live, observed = None, Observed(Look(unknown=str(error)))
        else:
            if live is not None and live.generation != self.release.generation:
                return self._ended(BakeVerdict.SUPERSEDED, [f"release {live.generation} is live"], now)
            observed = self._seen(now)
        self._looks.append(observed.look)
        self._readings = observed.readings or self._readings
        self._remarks = observed.remarks
        stands = course(
            self._looks, bad_looks=self._policy.bad_looks, over=self._is_over(now), patience=PATIENCE
        )
        log.info("%s version %s: %s", self._folder.model, self.release.active_version, _in_words(observed))
        if stands is Course.GOES_ON:
            return None
        return self._ended(self._verdict(stands), self._reasons(), now)

    def _is_over(self, now: datetime) -> bool:
        return now - self._began >= timedelta(seconds=self._policy.duration_s)

    def _seen(self, now: datetime) -> Observed:
        """Look at the release. A wrong set-up ends the watch, unless a recent look succeeded."""
        try:
            return self._observe(now)
        except (Misconfigured, AccessDenied) as error:
            if all(look.unknown for look in self._looks[1 - PATIENCE :]):
                raise
            return Observed(Look(unknown=str(error)))

    def _observe(self, now: datetime) -> Observed:
        age_s = max(1, int((now - self._began).total_seconds()))
        is_over = self._is_over(now)
        # The last look judges the whole time as new: no further look could confirm it.
        fresh_s = None if is_over or self._looked is None else math.ceil((now - self._looked).total_seconds())
        window_s = age_s if is_over else min(age_s, int(self._policy.window_s))
        observed = self._span(window_s, age_s, fresh_s)
        if window_s < age_s and not observed.look.judged and not (observed.look.bad or observed.look.unknown):
            # The window has too little traffic: the whole time since the commit may have enough.
            observed = self._span(age_s, age_s, fresh_s)
        if not observed.look.unknown:
            self._looked = now
        return observed

    def _span(self, window_s: int, age_s: int, fresh_s: int | None) -> Observed:
        now = Span(self._folder.model, self.release.active_version, window_s)
        return self._observer.look(now, self._baselines(now, age_s), since=self._began, fresh_s=fresh_s)

    def _baselines(self, now: Span, age_s: int) -> list[Baseline]:
        """Return the baselines: the same time first, then the time before the commit, then the same age."""
        if self._before is None or self._before.active_version == self.release.active_version:
            return []
        lived = self._began - datetime.fromisoformat(self._before.updated_at_utc)
        lead_s = max(1, int(lived.total_seconds()))
        before = replace(now, version=self._before.active_version)
        length_s = min(lead_s, int(max(self._policy.duration_s, self._policy.window_s)))
        # A source that does not tell versions apart counts the new release's requests too, from its flip on.
        met_s = age_s + math.ceil((self._began - self._flipped).total_seconds())
        found = [
            Baseline(before, "the previous release meanwhile", meanwhile=True, least_share=LEAST_SHARE),
            Baseline(
                replace(before, window_s=length_s, offset_s=met_s), "the previous release before the commit"
            ),
        ]
        if lead_s >= met_s:
            # A previous release that was never as old has no such time: the new release was live by then.
            aged = replace(before, offset_s=lead_s)
            found.append(Baseline(aged, "the previous release at the same age", aged=True))
        return found

    def _time_of_flip(self) -> datetime:
        """Return the time of the flip: from then on clients may get the release, before its commit."""
        record = None
        # Without a readable record, the commit stands for the flip.
        with contextlib.suppress(DeployError):
            record = self._folder.journal.find(self.release.deploy_id)
        told = record.times_utc.get(State.SWITCHING) if record else None
        return min(self._began, datetime.fromisoformat(told)) if told else self._began

    def _reasons(self) -> list[str]:
        last = self._looks[-1]
        if last.bad:
            return list(last.bad)
        if last.unknown:
            return [last.unknown.rstrip(".")]
        saw = [
            f"{one.source} saw {one.now.requests:.0f} requests" for one in self._readings if one.now.requests
        ]
        not_compared = [f"latency was not compared: {last.uncompared}"] if last.uncompared else []
        return [*saw, *self._remarks, *not_compared] or ["no source saw a request"]

    def _verdict(self, stands: Course) -> BakeVerdict:
        """Return the verdict of an ended course; the policy decides on a pass without a compared latency."""
        held = self._policy.no_baseline != "pass" and self._before is not None
        if stands is Course.PASSED and self._looks[-1].uncompared and held:
            return BakeVerdict.NO_DATA
        return BakeVerdict(stands.value)

    def _ended(self, verdict: BakeVerdict, reasons: list[str], now: datetime) -> Bake:
        return Bake(
            model=self._folder.model,
            generation=self.release.generation,
            version=self.release.active_version,
            deploy_id=self.release.deploy_id,
            verdict=verdict,
            reasons=tuple(reasons),
            looks=len(self._looks),
            judged=sum(look.judged for look in self._looks),
            figures={one.source: _figures(one) for one in self._readings},
            began_at_utc=self.release.updated_at_utc,
            ended_at_utc=utc_text(now),
            uncompared=self._looks[-1].uncompared if self._looks else "",
            unmeasured=verdict is BakeVerdict.NO_DATA and bool(self._looks[-1].unknown),
        )


def _figures(reading: Reading) -> Mapping[str, Any]:
    return {"now": asdict(reading.now), "before": asdict(reading.before) if reading.before else None}


def _in_words(observed: Observed) -> str:
    look = observed.look
    if look.unknown:
        return f"nothing is known: {look.unknown}"
    if look.bad:
        return ("bad, by nothing new: " if look.stale else "bad: ") + "; ".join(look.bad)
    return "good" if look.judged else "too few requests to judge by"
