"""What leaves the repository: out of the way with one rename, decided by a second one, then removed file by file.

Nobody can be sure in a rename that he still has the lease: a process can be stopped right before it, for longer than any lease,
and the version that it takes away may be live when it goes on. So a directory first gets a name under which nobody looks for
it (``.leaving-…``). Only when the lease is seen to be held *then*, which means that no deployment can have begun to use the
directory, a second rename decides (``.trash-…``). Who finds the lease lost puts the directory back; if he dies before, the next reconcile does.
From the second rename on nothing brings it back, and its files can be removed without the lease, by anybody.
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
"""Where what leaves comes from, below the model's directory."""

LEAVING = re.compile(r"\.(?:leaving|trash)-(?P<place>entry|journal)-(?P<name>.+)-[0-9a-f]{8}")


class Removals:
    """The directories of one model that are on their way out.

    Args:
        folder: the model's directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remove(self, source: Path, still_allowed: Callable[[], object]) -> None:
        """Take a directory away for good; its files are removed by ``empty``.

        Args:
            source: a version, a quarantined directory or a deployment's journal.
            still_allowed: raises when the caller has lost the lease.

        Raises:
            DeployError: what ``still_allowed`` raised; the directory is back.
            Superseded: a reconcile put it back.
            StorageFailed: it can't be renamed.
        """
        place = next(key for key, below in PLACES.items() if source.parent == self._folder / below)
        name = f"{place}-{source.name}-{secrets.token_hex(4)}"
        leaving = self._folder / f".leaving-{name}"
        with storage_errors(f"removing {source}"):
            durable.rename(source, leaving)
        try:
            still_allowed()
        except BaseException:
            # What fails here too, the next reconcile does.
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
        """Return directories that were taken out of the way by somebody who did not decide."""
        return self._with_prefix(".leaving-")

    def settle(self, leaving: Path) -> None:
        """Put back one of ``undecided``; when something has its name again, it goes."""
        match = LEAVING.fullmatch(leaving.name)
        if match is None:
            return
        source = self._folder / PLACES[match["place"]] / match["name"]
        target = self._trash(leaving) if source.exists() else source
        with (
            storage_errors(f"putting {source} back"),
            # Its own process has gone on, or another one put it back.
            contextlib.suppress(FileNotFoundError),
        ):
            durable.rename(leaving, target)

    def trash(self) -> list[Path]:
        """Return directories whose files are to be removed."""
        return self._with_prefix(".trash-")

    def empty(self) -> list[str]:
        """Remove the files of what was decided to go.

        Returns:
            What remains because a process has files of it open (on NFS); it goes at the next time.

        Raises:
            StorageFailed: something can't be removed for another reason.
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
        """Return the bytes that are free when a directory is gone: those of files that no other version shares."""
        with storage_errors(f"measuring {source}"):
            found = (path.lstat() for path in source.rglob("*"))
            return sum(status.st_size for status in found if status.st_nlink == 1)

    def changed_at(self, source: Path) -> datetime:
        """Return when an entry was last put into a directory, as the file system has it; aware."""
        with storage_errors(f"looking at {source}"):
            return datetime.fromtimestamp(source.stat().st_mtime, UTC)

    def _sync_names(self) -> None:
        """Make durable what was decided: a power cut must not bring a directory back that has lost some of its files.

        The process that gave it its name may have been killed before it could.
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
