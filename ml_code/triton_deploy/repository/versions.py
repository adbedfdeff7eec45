"""Version directories under their own names: installed with one rename, and immutable from then on.

Other modules own the directories around them: ``staging.py`` the files that a deployment brings,
``quarantine.py`` the directories that failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..errors import NotFound, StorageFailed
from ..rules.release import Release
from ..rules.version_files import SMOKE_CASE, FileEntry, Manifest, tree_digest
from ..storage import storage_errors
from . import durable
from .journal import Journal
from .origins import MANIFEST, Origins
from .reading import is_disk_failure, matching_paths, read_existing_record

BLOCK_BYTES = 1 << 20


def read_manifest(path: Path, text: Callable[[], str] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: its file.
        text: reads that file as UTF-8; by default by its path.

    Raises:
        StorageFailed: the file is gone, can't be read, or is not a manifest.
    """
    hint = "Move that version's directory away and deploy the version again."
    return read_existing_record(path, Manifest.from_json, "The manifest", hint, text)


def sha256_of(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """Return the sha256 of a file's bytes, in hex.

    The file is read in blocks, so it need not fit into memory.

    Args:
        path: the file.
        progress: called after each block with its size, bytes.

    Raises:
        OSError: the file can't be read.
    """
    sha = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            sha.update(block[:count])
            progress(count)
    return sha.hexdigest()


class Versions:
    """The installed version directories of one model.

    Args:
        folder: the model's directory.
        model: public model name, for messages.
        journal: the model's deployments, which decide which of them installed a directory.
    """

    def __init__(self, folder: Path, model: str, journal: Journal) -> None:
        self._folder = folder
        self._model = model
        self._origins = Origins(journal)

    def path(self, version: int) -> Path:
        """Return the path of a version's directory."""
        return self._folder / str(version)

    def manifest(self, version: int) -> Manifest | None:
        """Return a version's manifest, or None when the version is not installed.

        Raises:
            StorageFailed: the manifest can't be read.
        """
        path = self.path(version) / MANIFEST
        with storage_errors(f"reading {path}"):
            return read_manifest(path) if path.is_file() else None

    def readable_manifest(self, version: int) -> Manifest | None:
        """Return a version's manifest, or None when it is gone or can't be read; ``damage`` tells which."""
        with contextlib.suppress(StorageFailed):
            return self.manifest(version)
        return None

    def require(self, version: int) -> Manifest:
        """Return a version's manifest.

        Raises:
            NotFound: the version is not installed.
            StorageFailed: the manifest can't be read.
        """
        manifest = self.manifest(version)
        if manifest is None:
            raise NotFound(
                f"Version {version} of {self._model} is not in the model repository.",
                hint="Deploy it again; if its directory was removed by hand, check who else writes the repository.",
            )
        return manifest

    def manifest_digest(self, version: int) -> str:
        """Return the sha256 of a version's manifest file, in hex; empty when there is no such file."""
        path = self.path(version) / MANIFEST
        with storage_errors(f"reading {path}"):
            return sha256_of(path) if path.is_file() else ""

    def with_digest(self, digest: str) -> Manifest | None:
        """Return an installed version with this digest, or None: equal files need not be transferred again.

        A version whose manifest can't be read is skipped. At worst, equal files are transferred.
        """
        if digest:
            for path in matching_paths(self._folder, f"[0-9]*/{MANIFEST}"):
                if path.parent.name.isdigit():
                    with contextlib.suppress(StorageFailed):
                        manifest = read_manifest(path)
                        if manifest.digest == digest:
                            return manifest
        return None

    def installed(self) -> dict[int, str]:
        """Return each version directory with the deployment that installed it, empty if not known."""
        paths = [path for path in matching_paths(self._folder, "[1-9]*") if re.fullmatch("[0-9]+", path.name)]
        with storage_errors(f"listing {self._folder}"):
            versions = sorted(int(path.name) for path in paths if path.is_dir())
        return {version: self._origins.installing_deployment(self.path(version)) for version in versions}

    def sync_names(self) -> None:
        """Make the names of the versions durable, before a deployment relies on another process's version."""
        with storage_errors(f"syncing {self._folder}"):
            durable.fsync_directory(self._folder)

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
        """Yield a clause for each damage.

        The manifest is compared with the release, and the files with the manifest.

        Args:
            version: the version.
            deep: read every byte; otherwise only sizes are compared.
            release: the last release of the version. Without one, the manifest on disk is trusted. A
                release of earlier code has the digest of the files, but not that of the manifest.
            manifest_digest: digest of the manifest that a deployment recorded, or empty.
            read: paths of files that are read even without ``deep``.
            progress: called after each block with its size, bytes.

        Raises:
            StorageFailed: the disk fails, so whether the files are damaged is not known.
        """
        try:
            manifest = self.manifest(version)
        except StorageFailed as error:
            if is_disk_failure(error):
                raise
            yield error.message.removesuffix(".")
            return
        if manifest is None:
            yield "its directory or manifest is gone"
            return
        yield from self._manifest_damage(version, manifest, release, manifest_digest)
        for entry in manifest.files:
            yield from self._file_damage(version, entry, deep or entry.path in read, progress)

    def _manifest_damage(
        self, version: int, manifest: Manifest, release: Release | None, manifest_digest: str
    ) -> Iterator[str]:
        recorded = {manifest_digest, release.manifest_digest if release else ""} - {""}
        if recorded and recorded != {self.manifest_digest(version)}:
            yield f"{MANIFEST} has other bytes than were deployed"
        elif release and {manifest.digest, _artifact_digest(manifest)} != {release.digest}:
            # The files would be compared with a list that the deployer did not write.
            yield f"{MANIFEST} lists other files than were released"

    def _file_damage(
        self, version: int, entry: FileEntry, whole: bool, progress: Callable[[int], object]
    ) -> Iterator[str]:
        path = self.path(version) / entry.path
        with storage_errors(f"reading {path}"):
            same_size = path.is_file() and path.stat().st_size == entry.size_bytes
            same_bytes = same_size and (not whole or sha256_of(path, progress) == entry.sha256)
        if not same_size:
            yield f"{entry.path} is missing or has another size"
        elif not same_bytes:
            yield f"{entry.path} has other bytes than were deployed"


def _artifact_digest(manifest: Manifest) -> str:
    """Return the digest of the files that came from the artifact store: all but the smoke case."""
    return tree_digest(entry for entry in manifest.files if entry.path != SMOKE_CASE)
