"""The quarantine: the directories of versions that failed, each with the reason in ``failure.json``.

Triton reads the leading digits of any entry beside the versions as a version, so ``13.failed_…`` is
version 13 to Triton. But Triton never loads that directory: the model's folder belongs to the switch,
whose policy names one version, and the weights are loaded from the engine's folder, which holds only a
link.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..rules.deployment import Deployment, Failure
from ..rules.version_files import Manifest
from ..storage import storage_errors
from . import durable
from .journal import Journal
from .origins import FAILURE, MANIFEST, Origins, failure_content, leftover_name, read_json_object
from .reading import matching_paths
from .staging_directories import StagingDirectories
from .versions import Versions

QUARANTINED = "[0-9]*.failed_*"
"""Pattern of the names of quarantined directories.

The name of a directory on its way out begins with a dot.
"""


class Quarantine:
    """The quarantined directories of one model.

    Args:
        folder: the model's directory.
        journal: the model's deployments, which decide which of them brought a directory.
        versions: the model's installed versions.
        staging: the model's staging directories.
    """

    def __init__(
        self, folder: Path, journal: Journal, versions: Versions, staging: StagingDirectories
    ) -> None:
        self._folder = folder
        self._origins = Origins(journal)
        self._versions = versions
        self._staging = staging

    def path(self, name: str) -> Path:
        """Return the path of a quarantined directory."""
        return self._folder / name

    def contents(self) -> dict[str, str]:
        """Return the name of each quarantined directory with the deployment that brought it, or empty."""
        return {path.name: self._origins.failed_deployment(path) for path in self._paths()}

    def failures(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """Yield each quarantined directory whose reason is known, oldest first.

        The reason is in the form of ``failure_content``. A directory that a person gave such a name has no
        reason, so it blocks no deploy.
        """
        for path in self._paths():
            content = self._origins.failure(path)
            if content is not None:
                yield path, content

    def failed_at(self, name: str) -> datetime | None:
        """Return when the deployment of a quarantined directory failed, aware.

        Returns:
            None when neither the journal nor ``failure.json`` tells the time. So it is for the directory
            of an installed version.
        """
        with contextlib.suppress(ValueError, TypeError, KeyError):
            at = datetime.fromisoformat((self._origins.failure(self.path(name)) or {})["at_utc"])
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        return None

    def add(self, record: Deployment, failure: Failure, at: datetime) -> Path | None:
        """Move the files that a deployment brought into quarantine, with the reason inside.

        A second call changes nothing.

        Args:
            record: the deployment. Only the version directory that it installed, or its staging
                directory, is moved.
            failure: the reason.
            at: aware time that names the directory.

        Returns:
            The quarantined directory, or None when this deployment brought nothing worth keeping.

        Raises:
            StorageFailed: the files can't be moved, or the reason can't be written.
        """
        manifest, staging = self._versions.manifest(record.version), self._staging.path(record.deploy_id)
        with storage_errors(f"quarantining what {record.deploy_id} brought"):
            target = self._unused_path(record, at)
            if manifest is not None and manifest.deploy_id == record.deploy_id:
                # Rename before any write. A process that wakes up here may find that another deployment
                # has installed the version: a write would go into that deployment's directory, while the
                # rename finds the name taken.
                durable.rename(self._versions.path(record.version), target)
            elif failure.blames_artifact and staging.is_dir():
                content = failure_content(record, failure, record.digest)
                durable.replace_file(staging / FAILURE, _json_text(content))
                durable.rename(staging, target)
            else:
                self._staging.discard(record.deploy_id)
            kept = self._directory_of(record.deploy_id)
            if kept is not None:
                self._complete(kept, record, failure)
        return kept

    def add_leftover(self, manifest: Manifest) -> None:
        """Move a version directory away whose deployment had been rolled back before it was installed.

        The target's name depends on the deployment alone. So a process that wakes up here, when another
        deployment has installed the version again, finds the name taken, and leaves that directory alone.
        """
        source = self._versions.path(manifest.version)
        with storage_errors(f"moving {source} away"):
            durable.rename(source, self.path(leftover_name(manifest.version, manifest.deploy_id)))

    def _unused_path(self, record: Deployment, at: datetime) -> Path:
        """Return a path for the deployment's directory that no other deployment's directory has.

        A path that this deployment has used already is kept. A process that wakes up here may find
        another deployment's directory under the version's name: its rename then finds the target taken.
        """
        target = self.path(f"{record.version}.failed_{at.astimezone(UTC):%Y%m%dT%H%M%S}")
        while target.exists() and self._origins.failed_deployment(target) != record.deploy_id:
            target = target.with_name(target.name + "_")
        return target

    def _complete(self, kept: Path, record: Deployment, failure: Failure) -> None:
        """Make the directory's name durable, and write the reason, even over the model's own file."""
        durable.fsync_directory(self._folder)
        digest = record.digest or _installed_digest(kept, record.deploy_id)
        text = _json_text(failure_content(record, failure, digest))
        if read_json_object(kept / FAILURE) != json.loads(text):
            durable.replace_file(kept / FAILURE, text)

    def _directory_of(self, deploy_id: str) -> Path | None:
        return next(
            (self.path(name) for name, brought_by in self.contents().items() if brought_by == deploy_id), None
        )

    def _paths(self) -> list[Path]:
        return matching_paths(self._folder, QUARANTINED)


def _installed_digest(path: Path, deploy_id: str) -> str:
    """Return the digest in the manifest of a deployment that ended before it recorded one, or empty."""
    manifest = read_json_object(path / MANIFEST) or {}
    return str(manifest.get("digest", "")) if manifest.get("deploy_id") == deploy_id else ""


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
