"""The manifest of an installed version, read and replaced through the version's directory as it was opened.

A process may sleep between its decision to replace the manifest and the replacement. By then the version's
name may lead to another deployment's directory. The process still writes into the directory that it opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..rules.version_files import Manifest
from ..storage import storage_errors
from . import durable
from .origins import MANIFEST
from .versions import read_manifest


def digest_of(manifest: Manifest) -> str:
    """Return the sha256 of a manifest's file, in hex."""
    return hashlib.sha256(manifest.to_json().encode()).hexdigest()


class InstalledManifest:
    """A manifest in an open directory.

    Args:
        directory: descriptor of the version's directory.
        path: the directory's path, for messages.
    """

    def __init__(self, directory: int, path: Path) -> None:
        self._directory = directory
        self._path = path

    def read(self) -> Manifest:
        """Return the manifest; raises StorageFailed when it is gone, torn or not one."""
        return read_manifest(self._path / MANIFEST, self._text)

    def _text(self) -> str:
        file = os.open(MANIFEST, os.O_RDONLY, dir_fd=self._directory)
        with os.fdopen(file, encoding="utf-8") as opened:
            return opened.read()

    def replace(self, manifest: Manifest) -> None:
        """Replace the manifest: a reader sees the old one or the new one; raises StorageFailed."""
        with storage_errors(f"writing {self._path / MANIFEST}"):
            durable.replace_within(self._directory, MANIFEST, manifest.to_json())


@contextlib.contextmanager
def opened_manifest(folder: Path) -> Iterator[InstalledManifest]:
    """Hold a version's directory open; raises StorageFailed when it can't be opened.

    Args:
        folder: the version's directory.
    """
    with storage_errors(f"opening {folder}"):
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield InstalledManifest(directory, folder)
    finally:
        os.close(directory)
