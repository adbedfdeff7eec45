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
        "Number of last releases whose versions are kept for a revert; `triton-deploy gc` removes older ones.",
    )
    keep_quarantined: int = setting(
        "TRITON_DEPLOY_KEEP_QUARANTINED",
        10,
        "Number of quarantined directories that are kept, the newest; one younger than a day is kept in any case.",
    )
    quarantine_days: float = setting(
        "TRITON_DEPLOY_QUARANTINE_DAYS",
        30.0,
        "How long quarantined directories and the records of ended deployments are kept, days; a day at least.",
    )
