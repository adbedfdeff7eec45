"""Staging directories: a deployment's files before they become a version.

A version appears with one rename of its staging directory, after every byte is on disk. So no process
ever sees a part of one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..rules.version_files import Manifest
from ..storage import storage_errors
from . import durable
from .origins import MANIFEST
from .reading import matching_paths
from .versions import Versions

PREFIX = ".staging-"


class StagingDirectories:
    """The staging directories of one model, and the files that interrupted writes left behind.

    Args:
        folder: the model's directory.
        versions: the model's versions, which a staging directory becomes one of.
    """

    def __init__(self, folder: Path, versions: Versions) -> None:
        self._folder = folder
        self._versions = versions

    def path(self, deploy_id: str) -> Path:
        """Return the path of a deployment's staging directory, on the file system of the versions."""
        return self._folder / f"{PREFIX}{deploy_id}"

    def prepare(self, deploy_id: str) -> Path:
        """Return the deployment's staging directory, empty."""
        staging = self.path(deploy_id)
        with storage_errors(f"preparing {staging}"):
            if staging.exists():
                shutil.rmtree(staging)
            durable.make_directory(staging)
        return staging

    def discard(self, deploy_id: str) -> None:
        """Remove the deployment's staging directory, if there is one."""
        staging = self.path(deploy_id)
        with storage_errors(f"removing {staging}"):
            if staging.exists():
                shutil.rmtree(staging)

    def install(self, deploy_id: str, manifest: Manifest) -> Path:
        """Rename the staging directory to its version, after the manifest and every staged file are on disk.

        Raises:
            StorageFailed: the files can't be synced or renamed; the version does not exist then.
        """
        staging, target = self.path(deploy_id), self._versions.path(manifest.version)
        with storage_errors(f"installing {target}"):
            (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            for path in staging.rglob("*"):
                path.chmod(0o755 if path.is_dir() else durable.FILE_MODE)
            durable.fsync_tree(staging)
            durable.rename(staging, target)
        return target

    def free_bytes(self) -> int:
        """Return the free space for this user on the file system of the staging directories, bytes."""
        root = self._folder.parent
        with storage_errors(f"measuring {root}"):
            return shutil.disk_usage(self._folder if self._folder.is_dir() else root).free

    def deploy_ids(self) -> list[str]:
        """Return the deployments that have a staging directory."""
        return [path.name.removeprefix(PREFIX) for path in matching_paths(self._folder, f"{PREFIX}*")]

    def unfinished_files(self, engines: Sequence[Path]) -> list[Path]:
        """Return the temporary files of writes that never ended.

        Bakes and deployments are not searched: a model may have thousands of those folders.

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

    def remove_unfinished(self, path: Path) -> None:
        """Remove a file of ``unfinished_files``."""
        with storage_errors(f"removing {path}"):
            path.unlink(missing_ok=True)
