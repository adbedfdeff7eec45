"""Removal of directories: moved away with one rename, decided by a second rename, then removed file by file.

At a rename, no process can be sure that it still has the lease. It can be stopped right before the
rename, for longer than any lease lasts, and the version that it moves may be live when it goes on. So a
directory first gets a name that no deployment looks for (``.leaving-…``). If the lease is *then* still
held, no deployment can have begun to use the directory, and a second rename decides (``.trash-…``). A
process that has lost the lease puts the directory back. If it dies before, the next reconcile does. After
the second rename nothing brings the directory back, and any process may remove its files without the
lease.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ..errors import StorageFailed, Superseded
from ..storage import storage_errors
from . import durable

PLACES = {"entry": "", "journal": "deployments"}
"""Parents of the directories that may be removed, below the model's directory."""

LEAVING = re.compile(r"\.(?:leaving|trash)-(?P<place>entry|journal)-(?P<name>.+)-[0-9a-f]{8}")


class Removals:
    """The directories of one model that are on their way out.

    Args:
        folder: the model's directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remove(self, source: Path, still_allowed: Callable[[], object]) -> None:
        """Move a directory to the trash for good; ``empty`` removes its files.

        Args:
            source: a version, a quarantined directory or a deployment's journal.
            still_allowed: raises when the caller has lost the lease.

        Raises:
            DeployError: ``still_allowed`` raised it; the directory is back.
            Superseded: a reconcile put the directory back.
            StorageFailed: the directory can't be renamed.
        """
        place = next(key for key, below in PLACES.items() if source.parent == self._folder / below)
        name = f"{place}-{source.name}-{secrets.token_hex(4)}"
        leaving = self._folder / f".leaving-{name}"
        with storage_errors(f"removing {source}"):
            durable.rename(source, leaving)
        try:
            still_allowed()
        except BaseException:
            # If this fails too, the next reconcile settles the directory.
            with contextlib.suppress(StorageFailed):
                self.settle(leaving)
            raise
        with storage_errors(f"removing {source}"):
            try:
                durable.rename(leaving, self._trash(leaving))
            except FileNotFoundError as error:
                raise Superseded(
                    f"{source} was put back by a reconcile, which took this process for dead.",
                    hint="Nothing is lost; run it again.",
                ) from error

    def undecided(self) -> list[Path]:
        """Return directories that a process moved away without deciding, because it was stopped or killed."""
        return self._with_prefix(".leaving-")

    def settle(self, leaving: Path) -> None:
        """Put a directory of ``undecided`` back.

        If its name is taken again, move the directory to the trash.
        """
        match = LEAVING.fullmatch(leaving.name)
        if match is None:
            return
        source = self._folder / PLACES[match["place"]] / match["name"]
        target = self._trash(leaving) if source.exists() else source
        with (
            storage_errors(f"putting {source} back"),
            # Its own process has gone on, or another process has put it back.
            contextlib.suppress(FileNotFoundError),
        ):
            durable.rename(leaving, target)

    def trash(self) -> list[Path]:
        """Return the directories whose files are to be removed."""
        return self._with_prefix(".trash-")

    def empty(self) -> list[str]:
        """Remove the directories in the trash.

        Returns:
            The names of those that remain because a process has their files open (on NFS). The next call
            removes them.

        Raises:
            StorageFailed: a directory can't be removed for another reason.
        """
        remaining = []
        found = self.trash()
        if found:
            self._sync_names()
        for path in found:
            with storage_errors(f"removing {path}"):
                if not durable.remove_tree(path):
                    remaining.append(path.name)
        return remaining

    def size_bytes(self, source: Path) -> int:
        """Return the bytes that the removal of a directory frees: those that no other version shares."""
        with storage_errors(f"measuring {source}"):
            found = (path.lstat() for path in source.rglob("*"))
            return sum(status.st_size for status in found if status.st_nlink == 1)

    def changed_at(self, source: Path) -> datetime:
        """Return when an entry was last put into a directory, as the file system has it; aware."""
        with storage_errors(f"looking at {source}"):
            return datetime.fromtimestamp(source.stat().st_mtime, UTC)

    def _sync_names(self) -> None:
        """Make the decisions durable: a power cut must not bring a directory back without some of its files.

        The process that renamed the directory may have been killed before it synced the parent.
        """
        for below in PLACES.values():
            folder = self._folder / below
            with storage_errors(f"syncing {folder}"):
                if folder.is_dir():
                    durable.fsync_directory(folder)

    def _trash(self, leaving: Path) -> Path:
        return leaving.with_name(leaving.name.replace(".leaving-", ".trash-", 1))

    def _with_prefix(self, prefix: str) -> list[Path]:
        with storage_errors(f"listing {self._folder}"):
            return sorted(path for path in self._folder.glob(f"{prefix}*") if LEAVING.fullmatch(path.name))
