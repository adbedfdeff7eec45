"""Version directories: staged, installed with one rename, immutable afterwards, quarantined when they failed.

What Triton makes of directory names decides the layout: it reads the leading digits of any entry beside the versions, so a
quarantined ``13.failed_…`` is version 13 to it. It never looks, because the directory belongs to the switch, whose policy
names one version, while the weights are loaded from the engine's directory, which holds nothing but a link.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import NotFound, StorageFailed
from ..rules.deployment import Deployment, Failure
from ..rules.names import engine_name, is_version
from ..rules.release import Release
from ..rules.version_files import SMOKE_CASE, Manifest, tree_digest
from ..storage import storage_errors
from . import durable
from .journal import Journal
from .origins import FAILURE, MANIFEST, Origins, failure_content, said_by, set_aside_name
from .reading import read_record
from .traps import Trap, clear_the_way, refuse, traps_in

SWITCH_CONFIG = "config.pbtxt"
QUARANTINED = "[0-9]*.failed_*"
"""Pattern of the names of quarantined directories; not of one that is being removed, which begins with a dot."""
BLOCK_BYTES = 1 << 20


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raises StorageFailed when it is gone, torn or not one."""
    hint = "Move that version's directory away and deploy the version again."
    try:
        return read_record(path, Manifest.from_json, "The manifest", hint)
    except FileNotFoundError as error:
        raise StorageFailed(f"The manifest {path} is gone.", hint=hint) from error


def sha256_of(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """Return the sha256 of a file's bytes, in hex; it is never whole in memory.

    Args:
        path: the file.
        progress: told the number of bytes of every block that was read.

    Raises:
        OSError: it can't be read.
    """
    sha = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            sha.update(block[:count])
            progress(count)
    return sha.hexdigest()


class Versions:
    """The version directories of one model, and the configuration of its switch.

    Args:
        root: the model repository.
        model: public model name.
        journal: the model's deployments, which say what became of a directory.
    """

    def __init__(self, root: Path, model: str, journal: Journal) -> None:
        self._root = root
        self._origins = Origins(journal)
        self._folder = root / model
        self._model = model

    def path(self, version: int) -> Path:
        """Return where a version's files are."""
        return self._folder / str(version)

    def manifest(self, version: int) -> Manifest | None:
        """Return a version's manifest, or None when the version is not here."""
        path = self.path(version) / MANIFEST
        with storage_errors(f"reading {path}"):
            return read_manifest(path) if path.is_file() else None

    def usable(self, version: int) -> Manifest | None:
        """Return a version's manifest, or None when it is gone or can't be read; ``damage`` says which."""
        with contextlib.suppress(StorageFailed):
            return self.manifest(version)
        return None

    def require(self, version: int) -> Manifest:
        """Return a version's manifest; raises NotFound when the version is not here."""
        manifest = self.manifest(version)
        if manifest is None:
            raise NotFound(
                f"Version {version} of {self._model} is not in the model repository.",
                hint="Deploy it again; if its directory was removed by hand, check who else writes the repository.",
            )
        return manifest

    def manifest_digest(self, version: int) -> str:
        """Return the sha256 of a version's manifest as it lies there, in hex; empty when there is none."""
        path = self.path(version) / MANIFEST
        with storage_errors(f"reading {path}"):
            return sha256_of(path) if path.is_file() else ""

    def with_digest(self, digest: str) -> Manifest | None:
        """Return a version that has this digest, so that equal content is not copied again, or None.

        A manifest that can't be read is a matter of its own version: equal content is copied then.
        """
        if digest:
            for path in self._found(f"[0-9]*/{MANIFEST}"):
                if path.parent.name.isdigit():
                    with contextlib.suppress(StorageFailed):
                        manifest = read_manifest(path)
                        if manifest.digest == digest:
                            return manifest
        return None

    # Staging and installing

    def stage(self, deploy_id: str) -> Path:
        """Return an empty staging directory of this deployment, on the file system of the versions."""
        staging = self._staging(deploy_id)
        with storage_errors(f"preparing {staging}"):
            if staging.exists():
                shutil.rmtree(staging)
            durable.make_directory(staging)
        return staging

    def discard_stage(self, deploy_id: str) -> None:
        """Remove this deployment's staging directory, if there is one."""
        with storage_errors(f"removing {self._staging(deploy_id)}"):
            if self._staging(deploy_id).exists():
                shutil.rmtree(self._staging(deploy_id))

    def install(self, deploy_id: str, manifest: Manifest) -> Path:
        """Give the staged files their version's name, with one rename, after all of them are on disk.

        Raises:
            StorageFailed: they can't be synced or renamed; the version does not exist then.
        """
        staging, target = self._staging(deploy_id), self.path(manifest.version)
        with storage_errors(f"installing {target}"):
            (staging / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
            for path in staging.rglob("*"):
                path.chmod(0o755 if path.is_dir() else durable.FILE_MODE)
            durable.fsync_tree(staging)
            durable.rename(staging, target)
        return target

    def sync_names(self) -> None:
        """Make the names of the versions durable, before something relies on one that another process installed."""
        with storage_errors(f"syncing {self._folder}"):
            durable.fsync_directory(self._folder)

    def set_aside(self, manifest: Manifest) -> None:
        """Take away a version's directory that a deployment left which was rolled back before.

        It is not removed, and gets the same name at every attempt: a process that wakes up here, when the directory of
        another deployment is in its place, finds that name taken.
        """
        source = self.path(manifest.version)
        with storage_errors(f"moving {source} away"):
            durable.rename(source, self._folder / set_aside_name(manifest.version, manifest.deploy_id))

    def free_bytes(self) -> int:
        """Return the space that is free for this user where versions are staged, bytes."""
        with storage_errors(f"measuring {self._root}"):
            return shutil.disk_usage(self._folder if self._folder.is_dir() else self._root).free

    def stages(self) -> list[str]:
        """Return the deployments that have a staging directory."""
        return [path.name.removeprefix(".staging-") for path in self._found(".staging-*")]

    def temporaries(self, engines: Sequence[Path]) -> list[Path]:
        """Return files that a write which never ended left behind, in the places that are few.

        Args:
            engines: the folders of the model's engines.
        """
        places = (self._folder, self._folder / "releases", self._folder / "leases", *engines)
        with storage_errors(f"listing {self._folder}"):
            return sorted(
                place / name
                for place in places
                if place.is_dir()
                for name in os.listdir(place)
                if durable.is_temporary(place / name) and not (place / name).is_dir()
            )

    def remove_temporary(self, path: Path) -> None:
        """Remove one of ``temporaries``."""
        with storage_errors(f"removing {path}"):
            path.unlink(missing_ok=True)

    def damage(
        self,
        version: int,
        deep: bool,
        *,
        release: Release | None = None,
        manifest_digest: str = "",
        read: Collection[str] = (),
        progress: Callable[[int], object] = lambda count: None,
    ) -> Iterator[str]:
        """Yield what is wrong with a version's files, as its manifest has them, and with the manifest, as the release has it.

        Args:
            version: the version.
            deep: read every byte; otherwise only sizes are compared.
            release: the last release of the version; by default the manifest is taken as it lies there. One of earlier code knows
                the digest of the files, and not that of the manifest.
            manifest_digest: what a deployment recorded of the manifest, or empty.
            read: paths of files that are read in any case.
            progress: told the number of bytes of every block that was read.

        Raises:
            StorageFailed: the disk fails.
        """
        try:
            manifest = self.manifest(version)
        except StorageFailed as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
                # The disk fails: nothing is known of the file.
                raise
            yield error.message.removesuffix(".")
            return
        if manifest is None:
            yield "its directory or manifest is gone"
            return
        recorded = {manifest_digest, release.manifest_digest if release else ""} - {""}
        if recorded and recorded != {self.manifest_digest(version)}:
            yield f"{MANIFEST} has other bytes than were deployed"
        elif release and {manifest.digest, self._digest_of_artifact(manifest)} != {release.digest}:
            # The files would be compared with what somebody else wrote.
            yield f"{MANIFEST} lists other files than were released"
        for entry in manifest.files:
            path = self.path(version) / entry.path
            with storage_errors(f"reading {path}"):
                as_large = path.is_file() and path.stat().st_size == entry.size_bytes
                whole = deep or entry.path in read
                same = as_large and (not whole or sha256_of(path, progress) == entry.sha256)
            if not as_large:
                yield f"{entry.path} is missing or has another size"
            elif not same:
                yield f"{entry.path} has other bytes than were deployed"

    def _digest_of_artifact(self, manifest: Manifest) -> str:
        return tree_digest(entry for entry in manifest.files if entry.path != SMOKE_CASE)

    # Quarantine

    def quarantine(self, record: Deployment, failure: Failure, at: datetime) -> Path | None:
        """Put what this deployment brought aside, with the reason inside; done before, it is a no-op.

        Args:
            record: the deployment; only a directory that it installed itself, or its staging directory, is moved.
            failure: the reason.
            at: aware time that names the directory.

        Returns:
            The quarantined directory, or None when this deployment brought nothing worth keeping.
        """
        manifest, staging = self.manifest(record.version), self._staging(record.deploy_id)
        mine = manifest is not None and manifest.deploy_id == record.deploy_id
        content = failure_content(record, failure, record.digest)
        target = self._folder / f"{record.version}.failed_{at.astimezone(UTC):%Y%m%dT%H%M%S}"
        with storage_errors(f"quarantining what {record.deploy_id} brought"):
            # A name that this deployment has given is kept: what lies under the version's name by now is another's, and the rename
            # of a process that wakes up here finds the name taken.
            while target.exists() and self._origins.put_aside_by(target) != record.deploy_id:
                target = target.with_name(target.name + "_")
            if mine:
                # Nothing is written before the rename: a process that wakes up here, when another deployment has
                # installed the version, would write into that one's directory. Its rename finds the name taken.
                durable.rename(self.path(record.version), target)
            elif failure.blames_artifact and staging.is_dir():
                durable.replace_file(staging / FAILURE, _as_text(content))
                durable.rename(staging, target)
            else:
                self.discard_stage(record.deploy_id)
            kept = self._quarantined_by(record.deploy_id)
            if kept is not None:
                durable.fsync_directory(self._folder)
                content["digest"] = record.digest or self._digest_in(kept, record.deploy_id)
                # Also over a file of that name which came with the model.
                if said_by(kept / FAILURE) != json.loads(_as_text(content)):
                    durable.replace_file(kept / FAILURE, _as_text(content))
        return kept

    def quarantined(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """Yield every quarantined directory with why it was put aside, as origins.failure_content has it, oldest first."""
        for path in self._found(QUARANTINED):
            content = self._origins.failure(path)
            # Nothing in a directory that somebody named so by hand: it is in nobody's way.
            if content is not None:
                yield path, content

    def _quarantined_by(self, deploy_id: str) -> Path | None:
        for name, brought_by in self.put_aside().items():
            if brought_by == deploy_id:
                return self._folder / name
        return None

    # What is there, for the retention

    def installed(self) -> dict[int, str]:
        """Return every version directory with the deployment that installed it; empty when no manifest says which."""
        found = [path for path in self._found("[1-9]*") if re.fullmatch("[0-9]+", path.name)]
        with storage_errors(f"listing {self._folder}"):
            versions = sorted(int(path.name) for path in found if path.is_dir())
        return {version: self._origins.installed_by(self.path(version)) for version in versions}

    def put_aside(self) -> dict[str, str]:
        """Return the name of every quarantined directory with the deployment that brought it, or empty."""
        return {path.name: self._origins.put_aside_by(path) for path in self._found(QUARANTINED)}

    def failed_at(self, name: str) -> datetime | None:
        """Return when what is in a quarantined directory failed; None when nothing of ours says when, and for a version's."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            at = datetime.fromisoformat((self._origins.failure(self._folder / name) or {})["at_utc"])
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        return None

    def changed_at(self, name: str) -> datetime:
        """Return when something was last put into a version or a quarantined directory, as the file system has it."""
        path = self.entry(name)
        with storage_errors(f"looking at {path}"):
            return datetime.fromtimestamp(path.stat().st_mtime, UTC)

    def entry(self, name: str) -> Path:
        """Return where a version or a quarantined directory is."""
        return self._folder / name

    # What Triton can't bear

    def traps(self) -> list[Trap]:
        """Return what lies in the model's folder, or in those of its engines, and Triton can't bear."""
        versions = {path.name for path in (*self._found("[0-9]*"), *self._found("engines/[0-9]*"))}
        engines = (self._root / engine_name(self._model, int(name)) for name in versions if is_version(name))
        return traps_in([self._folder, *engines])

    def clear_the_way(self) -> None:
        """Remove what Triton can't bear and nobody needs; raises StorageFailed."""
        clear_the_way(self._folder)

    def refuse_traps(self) -> None:
        """Raise StorageFailed when there is one: nothing of the model may be loaded."""
        refuse(self.traps())

    def _digest_in(self, path: Path, deploy_id: str) -> str:
        """Return the digest of what a deployment had installed that died before it recorded that; else empty."""
        manifest = said_by(path / MANIFEST) or {}
        return str(manifest.get("digest", "")) if manifest.get("deploy_id") == deploy_id else ""

    def _found(self, pattern: str) -> list[Path]:
        """Return what is in the model's folder and matches, by name."""
        with storage_errors(f"listing {self._folder}"):
            return sorted(self._folder.glob(pattern))

    # The switch: derived, rebuildable

    def switch(self) -> str | None:
        """Return the switch's configuration as it is on disk, or None."""
        path = self._folder / SWITCH_CONFIG
        with storage_errors(f"reading {path}"):
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def write_switch(self, config: str) -> None:
        """Write the configuration that a restarted Triton finds; an equal one is not touched."""
        path = self._folder / SWITCH_CONFIG
        with storage_errors(f"writing {path}"):
            durable.ensure_content(path, config)

    def _staging(self, deploy_id: str) -> Path:
        return self._folder / f".staging-{deploy_id}"


def _as_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
