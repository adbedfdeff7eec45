"""A release: the version that is live since its commit, and how a deployment becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from . import reader
from .deployment import Deployment
from .moments import utc_text
from .reader import DeployId, Generation, Moment, Version

UNVERIFIED = "not verified: "
"""Begins the reason of a release whose files were not compared with those of the earlier release of that
version."""


BAKED_BADLY = "failed its bake: "
"""Begins the reason of a release that takes back a release with a failed bake."""


NOT_JUDGED = "could not be judged: "
"""Begins the reason of a release that takes back a release without data, where the settings ask for that."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One commit: its version is live from ``updated_at_utc`` until the next generation exists.

    ``current.json`` is the JSON of the last release, so the fields are a public interface.

    Attributes:
        model: public model name.
        generation: 1 for the first release, one more for each.
        active_version: the version that clients get.
        run_id: MLflow run that made the version.
        alias: alias that was deployed.
        digest: digest of the version's files.
        previous_version: version that was live before, or None.
        warm_versions: versions kept loaded beside the live one, newest first.
        deploy_id: deployment that committed the release.
        actor: the user that asked for it.
        updated_at_utc: time of the commit.
        reason: the user's reason, or empty.
        manifest_digest: sha256 of the version's ``manifest.json``; empty in releases of earlier code.
    """

    model: str
    generation: Generation
    active_version: Version
    run_id: str
    alias: str
    digest: str
    previous_version: Version | None
    warm_versions: tuple[Version, ...]
    deploy_id: DeployId
    actor: str
    updated_at_utc: Moment
    reason: str = ""
    manifest_digest: str = ""

    @property
    def unverified(self) -> bool:
        """Whether the version became live without a check of its files."""
        return self.reason.startswith(UNVERIFIED)

    @property
    def loaded_versions(self) -> tuple[int, ...]:
        """Versions that every Triton has to have loaded, the live one first."""
        return (self.active_version, *self.warm_versions)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a release or current.json back; raises ValueError when ``text`` is not one."""
        return reader.decode(text, cls)


def next_release(record: Deployment, previous: Release | None, now: datetime, keep_warm: int) -> Release:
    """Return the release that commits ``record`` on top of ``previous``.

    Args:
        record: a verified deployment.
        previous: the release that is live, or None before the first.
        now: aware time of the commit.
        keep_warm: how many earlier versions stay loaded for a fast revert.
    """
    earlier = previous.loaded_versions if previous else ()
    warm = [version for version in earlier if version != record.version][:keep_warm]
    replaced = previous.active_version if previous else None
    if previous and replaced == record.version:
        # A redeploy of the live version, which Triton had lost: keep the previous_version of its first
        # release.
        replaced = previous.previous_version
    return Release(
        model=record.model,
        generation=record.generation,
        active_version=record.version,
        run_id=record.pinned.run_id,
        alias=record.pinned.alias,
        digest=record.digest,
        previous_version=replaced,
        warm_versions=tuple(warm),
        deploy_id=record.deploy_id,
        actor=record.actor,
        updated_at_utc=utc_text(now),
        reason=record.reason,
        manifest_digest=record.manifest_digest,
    )
