"""Entries in a Triton model's folder that break Triton.

This module looks; a person moves the entry away, because this package makes none.

Triton takes every directory there for a version and reads its name as a number. It wants the type of
every entry, links followed, and gives the model up at the first entry whose type it can't get. It also
reads the time of the last change of every file below, links followed. Sources:
``ModelRepositoryManager::Poll``, ``GetDirectorySubdirs`` and ``GetModifiedTime`` of
triton-inference-server/core; each was seen on Triton 2.51.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageFailed
from ..rules.names import OUR_FOLDERS, ends_triton, engine_name, engine_version, is_version
from ..storage import storage_errors
from .reading import is_gone, matching_paths

WHAT_TO_DO = "Move it out of the model's folder, whoever put it there."
MOST_FOLDERS = 1000
"""All versions of a model together have fewer folders than this."""
_MADE_ANEW = frozenset({"config.pbtxt", "current.json", "reconcile.json"})
"""Files that follow from the releases or the next reconcile: a link that leads nowhere may be removed from
the place of one."""

_Identity = tuple[int, int]


@dataclass(frozen=True)
class Trap:
    """An entry that breaks Triton.

    Attributes:
        path: where it is.
        does: its effect on Triton, as a clause that follows the path.
    """

    path: Path
    does: str

    @property
    def why(self) -> str:
        """The path and the effect, as a sentence without its full stop."""
        return f"{self.path} {self.does}"

    @property
    def warning(self) -> str:
        """The path, the effect, and the advice to the user."""
        return f"{self.why}. {WHAT_TO_DO}"


class Traps:
    """The traps in the folders of one model: its own, which is the switch's, and those of its engines.

    Args:
        root: the model repository.
        model: public model name.
    """

    def __init__(self, root: Path, model: str) -> None:
        self._root = root
        self._folder = root / model
        self._model = model

    def found(self) -> list[Trap]:
        """Return the traps, by path.

        Raises:
            StorageFailed: a folder can't be listed.
        """
        found = (*matching_paths(self._folder, "[0-9]*"), *matching_paths(self._folder, "engines/[0-9]*"))
        versions = {path.name for path in found}
        engines = (self._root / engine_name(self._model, int(name)) for name in versions if is_version(name))
        return traps_in([self._folder, *engines])

    def refuse(self) -> None:
        """Raise StorageFailed when there is a trap: nothing of the model may be loaded then."""
        found = self.found()
        if found:
            raise StorageFailed(
                f"{'; '.join(trap.why for trap in found)}. Nothing was loaded.", hint=WHAT_TO_DO
            )

    def remove_dangling_links(self) -> None:
        """Remove links that lead nowhere from the places of files that are made anew.

        Raises:
            StorageFailed: a link can't be removed.
        """
        for name in sorted(_MADE_ANEW):
            path = self._folder / name
            with storage_errors(f"looking at {path}"):
                if _leads_nowhere(path):
                    path.unlink(missing_ok=True)


def traps_in(folders: Iterable[Path]) -> list[Trap]:
    """Return the traps in the folders of Triton models, by path.

    Args:
        folders: the folder of a public name or of an engine; a missing one has no traps.

    Raises:
        StorageFailed: a folder can't be listed.
    """
    found = []
    for folder in folders:
        with storage_errors(f"listing {folder}"):
            if folder.is_dir():
                found += list(_Look(folder).traps())
    return sorted(found, key=lambda trap: trap.path)


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
        """Yield the traps in the folder."""
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
        """Yield the first link by which a folder contains itself or leads to too many folders."""
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
    """Return the identity of the folder at a path, links followed; None when none can be seen there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _leads_nowhere(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        # Any other error may be one of this user or of the disk: Triton may get through.
        return is_gone(error) and path.is_symlink()
    return False


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        # A foreign folder that this user may not list.
        return []
