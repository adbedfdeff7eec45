"""What somebody put into a Triton model's folder that Triton can't bear. Looks only; a person moves it away, because this package makes none.

Triton takes every directory there for a version and reads its name as a number. It wants the type of every entry, links followed, and gives
the model up at the first that it can't get. And it asks all that lies below, links followed, for the time of the last change. Sources:
``ModelRepositoryManager::Poll``, ``GetDirectorySubdirs`` and ``GetModifiedTime`` of triton-inference-server/core; each was seen on Triton 2.51.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageFailed
from ..rules.names import OUR_FOLDERS, ends_triton, engine_version
from ..storage import storage_errors

WHAT_TO_DO = "Move it out of the model's folder, whoever put it there."
MOST_FOLDERS = 1000
"""So many folders below a model are more than all of its versions have."""
_MADE_ANEW = frozenset({"config.pbtxt", "current.json", "reconcile.json"})
"""Files that follow from the releases, or from the next reconcile: a link in the place of one is nothing that anybody needs."""

_Identity = tuple[int, int]


@dataclass(frozen=True)
class Trap:
    """One thing that Triton can't bear.

    Attributes:
        path: where it is.
        does: what it does to Triton, as it reads after the path.
    """

    path: Path
    does: str

    @property
    def why(self) -> str:
        """What it does, as a sentence without its end."""
        return f"{self.path} {self.does}"

    @property
    def warning(self) -> str:
        """What it does, and what to do."""
        return f"{self.why}. {WHAT_TO_DO}"


def traps_in(folders: Iterable[Path]) -> list[Trap]:
    """Return what Triton can't bear in the folders of Triton models: the public one of a model, or an engine's.

    Args:
        folders: the models' folders; one that is not there has none.

    Raises:
        StorageFailed: one can't be listed.
    """
    found = []
    for folder in folders:
        with storage_errors(f"listing {folder}"):
            if folder.is_dir():
                found += list(_Look(folder).traps())
    return sorted(found, key=lambda trap: trap.path)


def clear_the_way(folder: Path) -> None:
    """Remove links that lead nowhere from the places of files that are made anew; raises StorageFailed.

    Args:
        folder: of a model; it may be missing.
    """
    for name in sorted(_MADE_ANEW):
        path = folder / name
        with storage_errors(f"looking at {path}"):
            if _leads_nowhere(path):
                path.unlink(missing_ok=True)


def refuse(found: Sequence[Trap]) -> None:
    """Raise StorageFailed when there is something: nothing may be loaded."""
    if found:
        raise StorageFailed(f"{'; '.join(trap.why for trap in found)}. Nothing was loaded.", hint=WHAT_TO_DO)


class _Look:
    """Looks at one folder as Triton does.

    Args:
        folder: a Triton model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        version = engine_version(folder.name.rpartition(".v")[0], folder.name)
        self._ours = _MADE_ANEW | ({str(version)} if version else set())
        self._seen: set[_Identity] = set()

    def traps(self) -> Iterator[Trap]:
        """Yield what it can't bear."""
        found = self._folder.stat()
        above = frozenset({(found.st_dev, found.st_ino)})
        for entry in sorted(os.scandir(self._folder), key=lambda entry: entry.name):
            if entry.name in self._ours or (entry.name in OUR_FOLDERS and not entry.is_symlink()):
                continue
            path = self._folder / entry.name
            folder = _folder_at(path)
            if entry.is_symlink() and _leads_nowhere(path):
                yield Trap(
                    path, f"keeps Triton from loading {self._folder.name}: it is a link that leads nowhere"
                )
            elif folder is None:
                continue
            elif ends_triton(entry.name):
                yield Trap(
                    path,
                    f"ends Triton at its next load of {self._folder.name}, also when it is restarted: its name begins with a number that is "
                    "too large for a version",
                )
            else:
                yield from self._endless(path, folder, above)

    def _endless(self, path: Path, folder: _Identity, above: frozenset[_Identity]) -> Iterator[Trap]:
        """Yield the link by which a folder contains itself, or leads to too much; one is enough."""
        left = [(path, path, folder, above)]
        while left:
            path, by, folder, above = left.pop()
            if folder in above:
                yield Trap(
                    by,
                    f"keeps Triton busy without end at its next load of {self._folder.name}: by this link a folder contains itself",
                )
                return
            if folder in self._seen:
                continue
            self._seen.add(folder)
            if len(self._seen) > MOST_FOLDERS:
                yield Trap(
                    by,
                    f"keeps Triton busy at every load of {self._folder.name}: Triton looks at all that lies below, and that are more than "
                    f"{MOST_FOLDERS} folders",
                )
                return
            within = above | {folder}
            for entry in _entries(path):
                below = path / entry.name
                found = _folder_at(below)
                if found is not None:
                    left.append((below, below if entry.is_symlink() else by, found, within))


def _folder_at(path: Path) -> _Identity | None:
    """Return which folder is there, links followed; None when none is, or can't be told."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _leads_nowhere(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        # Others are troubles of this user or of the disk, and a Triton may see more.
        return (
            error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
            and path.is_symlink()
        )
    return False


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        # Somebody else's, whom this user may not look at.
        return []
