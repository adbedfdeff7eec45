"""The policy of a bake: its duration, its pace, its limits, and the fate of a release without a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidInput
from ..rules.bake_record import Bake
from ..rules.bake_rules import Limits
from ..settings import Settings
from ..settings.bake import MAX_BAKE_MINUTES


@dataclass(frozen=True, kw_only=True)
class BakePolicy:
    """How a release is watched, and its fate when it can't be judged: ``pass``, ``hold`` or ``revert``.

    Attributes:
        duration_s: length of the watch from the commit on, seconds; 0 does not watch the release.
        interval_s: pause between two looks, seconds.
        window_s: length of the window that each look queries, seconds.
        bad_looks: number of consecutive bad looks that revert the release before the end.
        limits: limits that the release has to keep.
        no_data: fate of a release that got too few requests.
        away: fate of a release when Prometheus can't be asked at the end.
        no_baseline: fate of a release whose latency could not be compared with another version's.
        alerts: names of the alerts that fail the bake.
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
        """Return the fate of a release with the verdict "no data": ``pass``, ``hold`` or ``revert``.

        Each cause has its own setting: no traffic, a Prometheus that is away, a latency without a comparison.
        """
        if bake.unmeasured:
            return self.away
        return self.no_baseline if bake.uncompared else self.no_data

    @classmethod
    def of(cls, settings: Settings, minutes: float | None = None) -> BakePolicy:
        """Return the policy of the settings.

        Args:
            settings: see ``Settings``.
            minutes: length of the watch, instead of that of the settings.

        Raises:
            InvalidInput: ``minutes`` is negative or more than 30 days.
        """
        bake = settings.bake
        minutes = bake.minutes if minutes is None else minutes
        if not 0 <= minutes <= MAX_BAKE_MINUTES:
            raise InvalidInput(
                f"{minutes:g} minutes is no time to watch a release for.",
                hint=f"Use 0 to {MAX_BAKE_MINUTES}, which is 30 days.",
            )
        return cls(
            # Without a Prometheus there are no figures to watch.
            duration_s=60 * minutes if bake.prometheus_url else 0,
            interval_s=bake.interval_s,
            window_s=bake.window_s,
            bad_looks=bake.bad_looks,
            limits=bake.limits,
            no_data=bake.no_data,
            away=bake.prometheus_away,
            no_baseline=bake.no_baseline,
            alerts=bake.alerts,
        )
