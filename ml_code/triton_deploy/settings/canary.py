"""The canary: how a candidate is judged before its commit, and the gateways that count its requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..rules.canary import MAX_HOLD_S
from .checks import at_most, one_of, share, web_addresses, within
from .environment import FromEnvironment, setting


@dataclass(frozen=True, kw_only=True)
class CanarySettings(FromEnvironment):
    """Pace, limits and waits of a canary, and the gateways."""

    queries: Path | None = setting(
        "TRITON_DEPLOY_CANARY_QUERIES",
        None,
        "File with the queries by which a canary is judged, written like those of the bake; by default those of the package.",
    )
    interval_s: float = setting(
        "TRITON_DEPLOY_CANARY_INTERVAL_S",
        15.0,
        "Pause between two looks at a canary, seconds; not more than a third of the following.",
        positive=True,
    )
    silence_s: float = setting(
        "TRITON_DEPLOY_CANARY_SILENCE_S",
        90.0,
        "A canary's share ends this long after the last sign of life of its watch, seconds; 10 to 600.",
        check=within(10, 600),
    )
    no_data: str = setting(
        "TRITON_DEPLOY_CANARY_NO_DATA",
        "hold",
        "What becomes of a candidate that can't be judged before its commit: `hold` (it waits for a person, without a share while nothing measures, and is rolled back in the end), `roll_back`, or `pass` (the next step begins, with a warning).",
        check=one_of("hold", "pass", "roll_back"),
    )
    min_requests: int = setting(
        "TRITON_DEPLOY_CANARY_MIN_REQUESTS",
        0,
        "Requests that a step has to see before it ends; 0: as many as TRITON_DEPLOY_BAKE_MIN_REQUESTS.",
    )
    hold_minutes: float = setting(
        "TRITON_DEPLOY_CANARY_HOLD_MINUTES",
        60.0,
        "Longest that a step waits beyond its time for requests, for a measurement or for a person, minutes; 1440 at most, 0 waits for nothing.",
        check=at_most(MAX_HOLD_S / 60, "a day"),
    )
    shadow_max_different: float = setting(
        "TRITON_DEPLOY_SHADOW_MAX_DIFFERENT",
        0.01,
        "Share of a shadow's answers that may differ from the live version's beyond the tolerance, for each output, 0 to 1; 1 compares and stops nothing.",
        check=share,
    )
    gateway_urls: tuple[str, ...] = setting(
        "TRITON_DEPLOY_GATEWAY_URLS",
        (),
        "Addresses of the gateways, `http://host:port`, comma-separated; a name may stand for several. What they count themselves stops a candidate that fails there, whatever Prometheus does.",
        check=web_addresses,
    )
    gateway_api_key: str = setting(
        "GATEWAY_API_KEY",
        "",
        "Key that the gateways want, if they want one: with it the deployer reads what they count.",
        secret=True,
    )

    @property
    def hold_s(self) -> float:
        """Longest wait of a step beyond its time, seconds."""
        return 60 * self.hold_minutes
