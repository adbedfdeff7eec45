"""The bake: how a release is watched on live traffic after its commit, by Prometheus and Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Misconfigured
from ..rules.bake_rules import Limits
from .checks import at_least, at_most, one_of, share, web_address
from .environment import FromEnvironment, Problem, setting

MAX_BAKE_MINUTES = 30 * 24 * 60
"""Longest bake, minutes: Prometheus forgets after some weeks."""


@dataclass(frozen=True, kw_only=True)
class BakeSettings(FromEnvironment):
    """Sources, pace and limits of a bake, and the fate of a release that could not be judged."""

    prometheus_url: str = setting(
        "TRITON_DEPLOY_PROMETHEUS_URL",
        "",
        "Prometheus, or what speaks its API, `http://…` or `https://…`, with user and password if it needs them. Without it no release bakes.",
        secret=True,
        check=web_address,
    )
    prometheus_timeout_s: float = setting(
        "TRITON_DEPLOY_PROMETHEUS_TIMEOUT_S",
        5.0,
        "Longest wait for one whole answer of Prometheus or Alertmanager, from the connection to its last byte, seconds.",
        positive=True,
    )
    alertmanager_url: str = setting(
        "TRITON_DEPLOY_ALERTMANAGER_URL",
        "",
        "Alertmanager, for the alerts that fail a bake; written like Prometheus'.",
        secret=True,
        check=web_address,
    )
    minutes: float = setting(
        "TRITON_DEPLOY_BAKE_MINUTES",
        15.0,
        "How long a release is watched on live traffic after its commit, minutes; 0 watches none, 43200 (30 days) at most.",
        check=at_most(MAX_BAKE_MINUTES, "30 days"),
    )
    interval_s: float = setting(
        "TRITON_DEPLOY_BAKE_INTERVAL_S",
        30.0,
        "Pause between two looks at a release that bakes, seconds.",
        check=at_least(1),
    )
    window_s: float = setting(
        "TRITON_DEPLOY_BAKE_WINDOW_S",
        120.0,
        "How far back a look looks, seconds; at least four times as long as Prometheus' scrape interval.",
        check=at_least(1),
    )
    bad_looks: int = setting(
        "TRITON_DEPLOY_BAKE_BAD_LOOKS",
        2,
        "Number of consecutive bad looks that revert a release before the end of its bake.",
        check=at_least(1),
    )
    min_requests: int = setting(
        "TRITON_DEPLOY_BAKE_MIN_REQUESTS", 100, "Fewer requests than that are no data."
    )
    min_clients: int = setting(
        "TRITON_DEPLOY_BAKE_MIN_CLIENTS",
        3,
        "Number of clients that must have met a failure before failures count; with fewer clients, all of them.",
        positive=True,
    )
    max_failure_ratio: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_FAILURE_RATIO",
        0.01,
        "Share of requests that may fail, 0 to 1, where nothing is known of the previous release; else the rise is the limit.",
        check=share,
    )
    max_failure_rise: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_FAILURE_RISE",
        0.005,
        "How much greater that share may be than the previous release's, 0 to 1.",
        check=share,
    )
    max_latency_ratio: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_LATENCY_RATIO",
        2.0,
        "How many times the latency of the previous release is accepted; 0 compares nothing.",
    )
    min_latency_rise_s: float = setting(
        "TRITON_DEPLOY_BAKE_MIN_LATENCY_RISE_S",
        0.01,
        "A latency that rose by less is accepted whatever the ratio, seconds.",
    )
    max_latency_s: float = setting(
        "TRITON_DEPLOY_BAKE_MAX_LATENCY_S", 0.0, "Absolute limit of the latency, seconds; 0 is none."
    )
    no_data: str = setting(
        "TRITON_DEPLOY_BAKE_NO_DATA",
        "pass",
        "What becomes of a release that too few requests came to: `pass` with a warning, `hold` (it stays, the run fails, a person decides), `revert`.",
        check=one_of("pass", "hold", "revert"),
    )
    prometheus_away: str = setting(
        "TRITON_DEPLOY_BAKE_PROMETHEUS_AWAY",
        "pass",
        "What becomes of a release when Prometheus can't be reached, or not in time, at the end of its bake: `pass` with a warning, `hold`, `revert`.",
        check=one_of("pass", "hold", "revert"),
    )
    no_baseline: str = setting(
        "TRITON_DEPLOY_BAKE_NO_BASELINE",
        "pass",
        "What becomes of a release that is good otherwise, when its latency could not be compared with the previous release's: `pass` (the verdict says so), `hold`, `revert`. A first release passes.",
        check=one_of("pass", "hold", "revert"),
    )
    queries: Path | None = setting(
        "TRITON_DEPLOY_BAKE_QUERIES",
        None,
        "File with the queries of the bake; by default those of the package, see docs/bake.md.",
    )
    alerts: tuple[str, ...] = setting(
        "TRITON_DEPLOY_BAKE_ALERTS",
        (),
        "Alerts that fail a bake when they begin to fire during it, for its model or for none, comma-separated. Needs TRITON_DEPLOY_ALERTMANAGER_URL.",
    )

    @property
    def limits(self) -> Limits:
        """The limits that a release has to keep."""
        return Limits(
            min_requests=self.min_requests,
            min_clients=self.min_clients,
            max_failure_ratio=self.max_failure_ratio,
            max_failure_rise=self.max_failure_rise,
            max_latency_ratio=self.max_latency_ratio,
            min_latency_rise_s=self.min_latency_rise_s,
            max_latency_s=self.max_latency_s,
        )

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems."""
        yield from super().problems()
        if self.alerts and not self.alertmanager_url:
            yield Problem(
                "TRITON_DEPLOY_BAKE_ALERTS",
                Misconfigured(
                    "TRITON_DEPLOY_BAKE_ALERTS is set, and TRITON_DEPLOY_ALERTMANAGER_URL is not.",
                    hint="Set it to the Alertmanager, for example http://alertmanager:9093.",
                ),
                beside=("TRITON_DEPLOY_ALERTMANAGER_URL",),
            )
