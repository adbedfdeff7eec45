"""Evidence of missing releases: a lost history must not be taken for a model that was never released.

The live version follows from ``releases/`` alone, and the deployer makes everything else match it. So
before it does, this module asks other files whether they know of a release that is missing. It asks no
Triton and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..errors import StorageFailed
from ..rules.deployment import State
from ..rules.names import OUR_FOLDERS, engine_name
from ..storage import storage_errors
from .engines import engines_in, is_link_to
from .journal import Journal
from .releases import Releases

SHOWN = 5
"""Most missing releases that a message names."""


class Evidence:
    """The evidence in one model's folder.

    Args:
        folder: the model's directory.
        model: name for messages.
        releases: the model's releases.
        journal: the model's deployments.
    """

    def __init__(self, folder: Path, model: str, releases: Releases, journal: Journal) -> None:
        self._folder = folder
        self._model = model
        self._releases = releases
        self._journal = journal

    def missing(self, *, thorough: bool = True) -> list[str]:
        """Return a sentence for each missing release, which names the file that knows of it.

        A release that ``current.json`` does not name yet is not missing, and neither is one of a
        deployment that has not recorded its commit: a process may have been killed at that point.

        Args:
            thorough: read the record of every deployment, not only of those that changed after the last
                release.
        """
        try:
            # Search twice: a release that was written during the first search is not missing.
            return list(self._missing(thorough)) and list(self._missing(thorough))
        except StorageFailed as error:
            return [str(error)]

    def require(self) -> None:
        """Raise StorageFailed when a release is missing: nothing may be built on the remaining ones."""
        missing = self.missing()
        if missing:
            raise StorageFailed(
                " ".join(missing),
                hint=f"What serves was not touched. Restore {self._folder / 'releases'} from a backup. Without one: take {self._model} "
                "out of every Triton, move its folder away, and deploy again.",
            )

    def _missing(self, thorough: bool) -> Iterator[str]:
        place = self._folder / "releases"
        in_the_way = list(self._in_the_way())
        if in_the_way:
            yield from in_the_way
            return
        generations = self._releases.generations()
        last = generations[-1] if generations else 0
        gaps = list(islice(_gaps(generations), SHOWN + 1))
        if gaps:
            named = ", ".join(self._releases.path(generation).name for generation in gaps[:SHOWN])
            more = " and more" if gaps[SHOWN:] else ""
            yield f"Before {self._releases.path(last)} there are releases missing: {named}{more}."
        there = f"the last one in {place} is {last}" if last else f"there is none in {place}"
        hint = self._releases.projected()
        if hint is not None and hint.model == self._model and hint.generation > last:
            yield f"{self._folder / 'current.json'} says that release {hint.generation} is live, and {there}."
        if not last and not self._journal.ids():
            for engine in self._engines():
                yield f"{engine} is the engine of a version, and {self._folder} has neither releases nor deployments: they are gone."
        named_by = max(self._known_to_deployments(last, thorough), default=None)
        if named_by is not None:
            generation, deploy_id = named_by
            yield f"{self._journal.path(deploy_id)} knows release {generation}, and {there}."

    def _engines(self) -> Iterator[Path]:
        """Yield the engines that lead to versions in this folder."""
        root = self._folder.parent
        for version in engines_in(root).get(self._model, []):
            engine = root / engine_name(self._model, version)
            if is_link_to(engine, self._model, version):
                yield engine

    def _in_the_way(self) -> Iterator[str]:
        """Yield a sentence for each of this deployer's folders whose path is a link or a file.

        Nothing may be written there.
        """
        # A link or file in the place of the whole folder is a foreign model, unless an engine leads to a
        # version in it.
        places = [self._folder] if list(self._engines()) else []
        for path in (*places, *(self._folder / name for name in OUR_FOLDERS)):
            with storage_errors(f"looking at {path}"):
                if path.is_symlink():
                    yield f"{path} is a link, and this deployer makes a folder there: what it has written is gone, or elsewhere."
                elif os.path.lexists(path) and not path.is_dir():
                    yield f"{path} is not a folder: what this deployer has written there is gone."

    def _known_to_deployments(self, last: int, thorough: bool) -> Iterator[tuple[int, str]]:
        """Yield each release after ``last`` that a deployment knows of, with that deployment."""
        deploy_ids = self._journal.ids() if thorough or not last else self._changed_after(last)
        for deploy_id in deploy_ids:
            record = self._journal.find_readable(deploy_id)
            if record is None:
                continue
            known = record.generation if record.state is State.COMMITTED else record.base_generation
            if known > last:
                yield known, deploy_id

    def _changed_after(self, generation: int) -> list[str]:
        path = self._releases.path(generation)
        with storage_errors(f"looking at {path}"):
            written = path.stat().st_mtime
        return [
            deploy_id
            for deploy_id in self._journal.ids()
            if self._changed_at(self._journal.path(deploy_id)) >= written
        ]

    def _changed_at(self, path: Path) -> float:
        # A gc may have removed the deployment since the listing.
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
        return 0.0


def _gaps(generations: Sequence[int]) -> Iterator[int]:
    """Yield the missing generations before the last one."""
    expected = 1
    for generation in generations:
        yield from range(expected, generation)
        expected = generation + 1
