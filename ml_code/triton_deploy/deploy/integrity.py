"""Whether the files of a version are those that were deployed; read before Triton loads them again.

The release has the digest of the manifest, and the manifest has that of every file, of the smoke case and
the options too. A
version that a deployment has just brought was hashed on its way. An older one is read once more: a disk, or
another program that writes the repository, may have changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..errors import Damaged
from ..repository import ModelFolder
from ..rules.moments import utc_text
from ..rules.release import Release
from ..rules.version_files import SMOKE_CASE, Manifest
from .step import RunningStep


def last_release_of(folder: ModelFolder, version: int) -> Release | None:
    """Return the last release of a version, or None when it was never live."""
    return next((known for known in folder.releases.history() if known.active_version == version), None)


def damage(
    folder: ModelFolder, version: int, deep: bool, progress: Callable[[int], object] = lambda count: None
) -> Iterator[str]:
    """Yield each damage of a version's files, compared with its last release: see Versions.damage.

    Args:
        folder: the model's place in the repository.
        version: the version.
        deep: read every byte.
        progress: told the number of bytes of every block that was read.
    """
    release = last_release_of(folder, version)
    return folder.versions.damage(version, deep, release=release, progress=progress)


def refuse(folder: ModelFolder, version: int, found: Sequence[str]) -> None:
    """Raise Damaged when damage was found in the files of a version."""
    if found:
        raise Damaged(
            f"The files of version {version} are damaged: {'; '.join(found)}.",
            hint=f"Nothing was loaded. Restore them from a backup, or revert to another version of 'triton-deploy history'; or move "
            f"{folder.versions.path(version)} away and deploy the version again.",
        )


def check_candidate(step: RunningStep, manifest: Manifest) -> None:
    """Compare a candidate's files with the deployed ones, before they are loaded.

    Every byte is read, unless this deployment has hashed it, or every Triton has the version loaded: then
    none is loaded.

    Args:
        step: the load.
        manifest: the candidate's.

    Raises:
        Damaged: they differ; nothing is known against the artifact.
        Superseded: the deployment lost its lease meanwhile.
        StorageFailed: they can't be read.
    """
    record, folder, version = step.record, step.folder, manifest.version
    if record.unverified or record.hashed_utc:
        return
    brought = manifest.deploy_id == record.deploy_id
    deep = not brought and not _is_warm(step, version)
    found = folder.versions.damage(
        version,
        deep,
        release=None if brought else last_release_of(folder, version),
        manifest_digest=record.manifest_digest,
        read=(SMOKE_CASE,),
        progress=lambda count: step.keep_lease_in_time(),
    )
    refuse(folder, version, list(found))
    if deep:
        step.note(
            hashed_utc=utc_text(step.deployments.clock()),
            manifest_digest=record.manifest_digest or folder.versions.manifest_digest(version),
        )


def _is_warm(step: RunningStep, version: int) -> bool:
    live = step.folder.releases.latest()
    return live is not None and version in live.loaded_versions and step.serving.is_loaded(version)
