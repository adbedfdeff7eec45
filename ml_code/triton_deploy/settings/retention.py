"""Retention: how many earlier versions, releases, quarantined versions and records are kept."""

from __future__ import annotations

from dataclasses import dataclass

from .environment import FromEnvironment, setting


@dataclass(frozen=True, kw_only=True)
class RetentionSettings(FromEnvironment):
    """Versions that stay loaded, and versions and records that ``triton-deploy gc`` keeps."""

    keep_warm: int = setting(
        "TRITON_DEPLOY_KEEP_WARM", 1, "Earlier versions kept loaded beside the live one."
    )
    keep_releases: int = setting(
        "TRITON_DEPLOY_KEEP_RELEASES",
        10,
        "The versions of so many last releases stay, to be reverted to; `triton-deploy gc` removes older ones.",
    )
    keep_quarantined: int = setting(
        "TRITON_DEPLOY_KEEP_QUARANTINED",
        10,
        "So many quarantined directories stay, the newest; one younger than a day stays in any case.",
    )
    quarantine_days: float = setting(
        "TRITON_DEPLOY_QUARANTINE_DAYS",
        30.0,
        "For so long stay what failed and the records of ended deployments, days; a day at least.",
    )
