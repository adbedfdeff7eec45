"""Releases: one file a commit, and current.json, the projection of the last one."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from ..errors import StorageFailed, Superseded
from ..rules.release import Release
from ..rules.writer import to_json
from ..storage import storage_errors
from . import durable
from .reading import read_existing_record


class Releases:
    """The history of one model.

    Args:
        folder: the model's directory, which holds ``current.json`` and ``releases/``.
        model: name for messages.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._folder = folder / "releases"
        self._current = folder / "current.json"
        self._model = model

    def latest(self) -> Release | None:
        """Return the live release, or None before the first one. The release files decide, not current.json.

        current.json only tells where to look first: a model may have thousands of releases, and a deploy
        calls this often.
        """
        hint = self.projected()
        if hint is not None and isinstance(hint.generation, int) and self._has(hint.generation):
            generation = hint.generation
            while self._has(generation + 1):
                generation += 1
            return self._read(generation)
        generations = self.generations()
        return self._read(generations[-1]) if generations else None

    def history(self) -> Iterator[Release]:
        """Yield every release, newest first; each file is read when its release is needed."""
        latest = self.latest()
        if latest is None:
            return
        yield latest
        generation = latest.generation - 1
        while generation > 0 and self._has(generation):
            yield self._read(generation)
            generation -= 1
        # A history has a gap only if a person removed files.
        if generation > 0:
            for older in reversed([known for known in self.generations() if known < generation]):
                yield self._read(older)

    def find(self, generation: int) -> Release | None:
        """Return a release, or None when there is no such one; raises StorageFailed when it can't be read."""
        return self._read(generation) if self._has(generation) else None

    def of_deployment(self, deploy_id: str, from_generation: int) -> Release | None:
        """Return the release that a deployment committed as ``from_generation`` or later, or None.

        The release is made durable first: the process that wrote it may have been killed before it synced
        the directory.
        """
        for release in takewhile(lambda one: one.generation >= from_generation, self.history()):
            if release.deploy_id == deploy_id:
                with storage_errors(f"syncing {self._folder}"):
                    durable.fsync_directory(self._folder)
                return release
        return None

    def releases_version(self, version: int) -> bool:
        """Whether a version was ever released: then a revert may need its directory, which must stay."""
        return any(release.active_version == version for release in self.history())

    def publish(self, release: Release) -> None:
        """Commit: create the generation's file.

        A second call with the same deployment's release changes nothing.

        Raises:
            Superseded: another deployment committed this generation.
            StorageFailed: the file can't be written; nothing was committed.
        """
        path = self.path(release.generation)
        with storage_errors(f"writing release {release.generation} of {self._model}"):
            durable.make_directory(path.parent)
            created = durable.create_file(path, to_json(release))
        if not created:
            winner = self._read(release.generation)
            if winner.deploy_id != release.deploy_id:
                raise Superseded(
                    f"Generation {release.generation} of {self._model} was committed by deployment {winner.deploy_id} "
                    f"(version {winner.active_version}).",
                    hint="Its version serves. Start a new deploy if you still want yours.",
                )

    def project(self, release: Release) -> None:
        """Make current.json hold ``release``; a file that holds it already is not touched.

        Fields that a newer version of this package wrote into the release's own file are kept.
        """
        before = ""
        with contextlib.suppress(OSError, ValueError):
            before = self.path(release.generation).read_text(encoding="utf-8")
        with storage_errors(f"writing {self._current}"):
            durable.ensure_content(self._current, to_json(release, before))

    def projected(self) -> Release | None:
        """Return the release in current.json, or None when the file is missing or can't be read."""
        with contextlib.suppress(OSError, ValueError):
            return Release.from_json(self._current.read_text(encoding="utf-8"))
        return None

    def _has(self, generation: int) -> bool:
        with storage_errors(f"looking into {self._folder}"):
            return self.path(generation).exists()

    def generations(self) -> list[int]:
        """Return the generations that have a release file, ascending."""
        with storage_errors(f"listing {self._folder}"):
            if not self._folder.is_dir():
                return []
            found = (re.fullmatch(r"([0-9]{6,18})\.json", name) for name in os.listdir(self._folder))
            numbers = {int(match[1]): match[0] for match in found if match}
            return sorted(one for one, name in numbers.items() if one and self.path(one).name == name)

    def path(self, generation: int) -> Path:
        """Return the path of a release's file."""
        return self._folder / f"{generation:06d}.json"

    def _read(self, generation: int) -> Release:
        path = self.path(generation)
        hint = "Restore it from a backup; current.json holds the last one."
        release = read_existing_record(path, Release.from_json, "The release record", hint)
        if (release.generation, release.model) != (generation, self._model):
            raise StorageFailed(
                f"The release record {path} is that of release {release.generation} of {release.model}.",
                hint=hint,
            )
        return release
