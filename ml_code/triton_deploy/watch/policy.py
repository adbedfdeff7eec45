"""How a release bakes: for how long, how often, by which limits."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidInput
from ..rules.bake_rules import Limits
from ..rules.records import Bake
from ..settings import Settings
from ..settings.bake import MAX_BAKE_MINUTES


@dataclass(frozen=True, kw_only=True)
class BakePolicy:
    """How a release is watched, and what becomes of it.

    Attributes:
        duration_s: how long, since its commit; seconds. 0 does not watch it.
        interval_s: pause between two looks, seconds.
        window_s: how far back a look looks, seconds.
        bad_looks: so many bad looks in a row take it back before the end.
        limits: what it has to keep.
        no_data: what becomes of one that too few requests came to: ``pass``, ``hold`` or ``revert``.
        away: what becomes of one when whoever measures can't be asked in the end: the same.
        no_baseline: what becomes of one whose latency could not be compared with another version's: the same.
        alerts: names of the alerts that fail it.
    """

    duration_s: float
    interval_s: float
    window_s: float
    bad_looks: int
    limits: Limits
    no_data: str = "pass"
    away: str = "pass"
    no_baseline: str = "pass"
    alerts: tuple[str, ...] = ()

    def fate(self, bake: Bake) -> str:
        """Return what becomes of a release with the verdict "no data": ``pass``, ``hold`` or ``revert``.

        No traffic, a Prometheus that is away, and a latency that could not be compared are three things.
        """
        if bake.unmeasured:
            return self.away
        return self.no_baseline if bake.uncompared else self.no_data

    @classmethod
    def of(cls, settings: Settings, minutes: float | None = None) -> BakePolicy:
        """Return the policy of the settings.

        Args:
            settings: see ``Settings``.
            minutes: how long to watch, instead of what the settings say.

        Raises:
            InvalidInput: ``minutes`` is no length of time.
        """
        minutes = settings.bake.minutes if minutes is None else minutes
        if not 0 <= minutes <= MAX_BAKE_MINUTES:
            raise InvalidInput(
                f"{minutes:g} minutes is no time to watch a release for.",
                hint=f"Use 0 to {MAX_BAKE_MINUTES}, which is 30 days.",
            )
        return cls(
            # Without a Prometheus there is nothing to see.
            duration_s=60 * minutes if settings.bake.prometheus_url else 0,
            interval_s=settings.bake.interval_s,
            window_s=settings.bake.window_s,
            bad_looks=settings.bake.bad_looks,
            limits=Limits(
                min_requests=settings.bake.min_requests,
                min_clients=settings.bake.min_clients,
                max_failure_ratio=settings.bake.max_failure_ratio,
                max_failure_rise=settings.bake.max_failure_rise,
                max_latency_ratio=settings.bake.max_latency_ratio,
                min_latency_rise_s=settings.bake.min_latency_rise_s,
                max_latency_s=settings.bake.max_latency_s,
            ),
            no_data=settings.bake.no_data,
            away=settings.bake.prometheus_away,
            no_baseline=settings.bake.no_baseline,
            alerts=settings.bake.alerts,
        )
