"""Watches one release, look by look, until there is a verdict. Changes nothing; its state can be lost at any time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import DeployError, NotFound
from ..records import Bake, BakeVerdict, Release, utc_text
from ..repository import ModelFolder
from ..settings import Settings
from .observer import Observed, Observer
from .policy import BakePolicy
from .prometheus import Alertmanager, Prometheus
from .queries import Queries, Span
from .rules import Course, Look, Reading, course

PATIENCE = 4
"""Looks, from the end of a bake on, until a Prometheus that does not answer is taken for no data."""

log = logging.getLogger(__name__)


class Watch:
    """The watch over one release.

    What it remembers are its looks. A watch that is begun again, after a restart of the process, looks at the rest of the time;
    its last look is about the whole of it.

    Args:
        folder: the model's place in the repository.
        generation: the release.
        policy: for how long, how often, by which limits.
        observer: sees the figures.
        clock: gives the time, aware.

    Raises:
        NotFound: there is no such release.
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
        self._looks: list[Look] = []
        self._readings: tuple[Reading, ...] = ()

    @classmethod
    def of(cls, settings: Settings, model: str, generation: int, policy: BakePolicy) -> Watch:
        """Return the watch that the settings describe.

        Raises:
            Misconfigured: the file of queries, or the repository, can't be used.
            NotFound, StorageFailed: see above.
        """
        timeout_s = settings.prometheus_timeout_s
        alerts = (
            (Alertmanager(settings.alertmanager_url, timeout_s), policy.alerts) if policy.alerts else None
        )
        observer = Observer(
            Queries.read(settings.bake_queries),
            Prometheus(settings.prometheus_url, timeout_s),
            policy.limits,
            alerts,
        )
        return cls(ModelFolder.at(settings.repository_root, model), generation, policy, observer)

    def look(self) -> Bake | None:
        """Look once; return how the bake ended, or None when it goes on.

        A repository that can't be read now is one more reason to know nothing: it is no reason to take a release back.
        """
        now = self._clock()
        try:
            live = self._folder.releases.latest()
        except DeployError as error:
            live, observed = None, Observed(Look(unknown=str(error)))
        else:
            if live is not None and live.generation != self.release.generation:
                return self._ended(BakeVerdict.SUPERSEDED, [f"release {live.generation} is live"], now)
            observed = self._observe(now)
        self._looks.append(observed.look)
        self._readings = observed.readings or self._readings
        stands = course(
            self._looks, bad_looks=self._policy.bad_looks, over=self._is_over(now), patience=PATIENCE
        )
        log.info("%s version %s: %s", self._folder.model, self.release.active_version, _told(observed))
        if stands is Course.GOES_ON:
            return None
        return self._ended(BakeVerdict(stands.value), list(self._reasons()), now)

    def _is_over(self, now: datetime) -> bool:
        return now - self._began >= timedelta(seconds=self._policy.duration_s)

    def _observe(self, now: datetime) -> Observed:
        age_s = max(1, int((now - self._began).total_seconds()))
        window_s = age_s if self._is_over(now) else min(age_s, int(self._policy.window_s))
        observed = self._span(window_s)
        if window_s < age_s and not observed.look.judged and not (observed.look.bad or observed.look.unknown):
            # Too little traffic for the last minutes alone: all of it may be enough.
            return self._span(age_s)
        return observed

    def _span(self, window_s: int) -> Observed:
        model, before = self._folder.model, None
        if self._before is not None and self._before.active_version != self.release.active_version:
            lead_s = (self._began - datetime.fromisoformat(self._before.updated_at_utc)).total_seconds()
            before = Span(model, self._before.active_version, window_s, offset_s=max(1, int(lead_s)))
        return self._observer.look(
            Span(model, self.release.active_version, window_s), before, since=self._began
        )

    def _reasons(self) -> list[str]:
        last = self._looks[-1]
        if last.bad:
            return list(last.bad)
        if last.unknown:
            return [last.unknown]
        saw = [
            f"{one.source} saw {one.now.requests:.0f} requests" for one in self._readings if one.now.requests
        ]
        return saw or ["no source saw a request"]

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
        )


def _figures(reading: Reading) -> Mapping[str, Any]:
    return {"now": asdict(reading.now), "before": asdict(reading.before) if reading.before else None}


def _told(observed: Observed) -> str:
    look = observed.look
    if look.unknown:
        return f"nothing is known: {look.unknown}"
    if look.bad:
        return "bad: " + "; ".join(look.bad)
    return "good" if look.judged else "too few requests to judge by"
