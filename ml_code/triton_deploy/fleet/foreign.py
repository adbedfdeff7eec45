"""What others made that has a name of ours: told, refused as the place of a first deploy, and left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import StorageFailed, Unavailable
from ..repository import ModelFolder
from ..rules.standing import Notice
from .fleet import Fleet
from .index_cache import IndexCache

FOREIGN = "foreign"
"""Kind of a notice: something has a name of this model and is somebody else's."""

SHOWN = 10
"""So much of it is named."""


def foreign_notice(found: Sequence[str]) -> Notice:
    """Return the notice of what is not this deployer's, and is left alone.

    Args:
        found: files and models.
    """
    named = list(dict.fromkeys(found))
    more = f" and {len(named) - SHOWN} more" if named[SHOWN:] else ""
    return Notice(FOREIGN, f"not made by this deployer, and left alone: {', '.join(named[:SHOWN])}{more}")


def refuse_foreign(folder: ModelFolder, serving: Callable[[], Fleet], root: Path) -> None:
    """Refuse a first deploy by a name that somebody else uses, and one of a model whose releases are gone.

    Args:
        folder: the model's place in the repository.
        serving: gives the Tritons; one that does not answer is not asked: the load will tell.
        root: the model repository.

    Raises:
        Foreign: a Triton serves a model of this name, or the repository has a folder, that this deployer did not make.
        StorageFailed: releases are missing.
    """
    folder.evidence.require()
    if folder.releases.latest() is not None:
        return
    serves: Mapping[str, int | str | None] = {}
    with suppress(Unavailable):
        serves = serving().public_versions(IndexCache(root))
    for version in folder.ownership.lost(one for one in serves.values() if isinstance(one, int)):
        raise StorageFailed(
            f"Triton serves version {version} of {folder.model}, which this deployer brought, and there is no release.",
            hint="What serves was not touched. Restore the model's releases from a backup.",
        )
    others = served_by_others(folder, serves)
    loaded = f"A model {folder.model} that this deployer did not release is served by {', '.join(others)}."
    files = folder.ownership.foreign_files()
    # Another deployer may have made the first release since it was looked for: then what follows from that release is no longer foreign.
    if folder.releases.latest() is None:
        folder.ownership.refuse_files(files, loaded if others else "")


def served_by_others(folder: ModelFolder, serving: Mapping[str, int | str | None]) -> list[str]:
    """Return which Tritons serve a model of this name that this deployer did not release, where it has released none.

    Args:
        folder: the model's place in the repository.
        serving: what each Triton answers the public name with, by its address: see Fleet.public_versions.
    """
    if folder.releases.latest() is not None or folder.ownership.may_have_flipped():
        return []
    return [url for url, version in serving.items() if isinstance(version, int)]
