"""Directories whose names end a Triton: see names.ends_triton. Looks only; a person moves them away, because this package makes none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import StorageFailed
from ..names import ends_triton
from . import durable

WHAT_TO_DO = "Move it out of the model's folder, whoever put it there."


def deadly_in(folders: Iterable[Path]) -> list[Path]:
    """Return the directories of such names in the folders of Triton models; a file of such a name harms nothing.

    Args:
        folders: the models' folders; one that is not there has none.

    Raises:
        StorageFailed: one can't be listed.
    """
    found = []
    for folder in folders:
        with durable.storage_errors(f"listing {folder}"):
            if folder.is_dir():
                found += [
                    folder / name
                    for name in os.listdir(folder)
                    if ends_triton(name) and (folder / name).is_dir()
                ]
    return sorted(found)


def why(path: Path) -> str:
    """Return what such a directory does, as a sentence without its end."""
    return (
        f"{path} ends Triton at its next load of {path.parent.name}, also when it is restarted: its name begins with a number that is too "
        "large for a version"
    )


def warning(path: Path) -> str:
    """Return what such a directory does, and what to do."""
    return f"{why(path)}. {WHAT_TO_DO}"


def refuse(found: Sequence[Path]) -> None:
    """Raise StorageFailed when there is such a directory: nothing may be loaded."""
    if found:
        raise StorageFailed(f"{'; '.join(map(why, found))}. Nothing was loaded.", hint=WHAT_TO_DO)
