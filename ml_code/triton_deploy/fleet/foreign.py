"""Models and files of others under a name of ours: left alone, but a first deploy there is refused."""

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
"""Kind of a notice: a file or model under a name of ours that this deployer did not make."""

SHOWN = 10
"""Number of names in one notice."""


def foreign_notice(found: Sequence[str]) -> Notice:
    """Return the notice about files and models that this deployer did not make, and leaves alone.

    Args:
        found: the files and models.
    """
    named = list(dict.fromkeys(found))
    more = f" and {len(named) - SHOWN} more" if named[SHOWN:] else ""
    return Notice(FOREIGN, f"not made by this deployer, and left alone: {', '.join(named[:SHOWN])}{more}")


def refuse_foreign(folder: ModelFolder, serving: Callable[[], Fleet], root: Path) -> None:
    """Refuse a first deploy under a name that others use, and a deploy of a model whose releases are gone.

    Args:
        folder: the model's place in the repository.
        serving: returns the Tritons; a Triton that does not answer is passed over here, and the load
            fails there.
        root: the model repository.

    Raises:
        Foreign: a Triton serves a model of this name, or the repository has a folder, that this deployer
            did not make.
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
    # Another deployer may have made the first release since the check above: then its files and models
    # are not foreign.
    if folder.releases.latest() is None:
        folder.ownership.refuse_files(files, loaded if others else "")


def served_by_others(folder: ModelFolder, serving: Mapping[str, int | str | None]) -> list[str]:
    """Return the Tritons that serve a model of this name although this deployer has released none.

    Args:
        folder: the model's place in the repository.
        serving: each Triton's answer for the public name, by its address: see Fleet.public_versions.
    """
    if folder.releases.latest() is not None or folder.ownership.may_have_flipped():
        return []
    return [url for url, version in serving.items() if isinstance(version, int)]
