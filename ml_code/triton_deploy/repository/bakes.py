"""Bakes: how each release did on live traffic, in one file that is written once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ..rules.bake_record import Bake
from ..rules.moments import utc_text
from ..rules.writer import to_json
from ..storage import storage_errors
from . import durable
from .reading import read_record


class Bakes:
    """The bakes of one model.

    Args:
        folder: directory with one file for each bake.
        model: name for messages.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._folder = folder
        self._model = model

    def find(self, generation: int) -> Bake | None:
        """Return the record of a release's bake, or None while the bake has not ended.

        Raises:
            StorageFailed: the record can't be read.
        """
        path = self._path(generation)
        with contextlib.suppress(FileNotFoundError):
            hint = "Move the file away: the release bakes again."
            return read_record(path, Bake.from_json, "The record of a bake", hint)
        return None

    def add(self, bake: Bake) -> Bake:
        """Record how a bake ended.

        Returns:
            The record on disk. Of two processes that watch the same release, the first one's record counts.

        Raises:
            StorageFailed: the record can't be written.
        """
        path = self._path(bake.generation)
        with storage_errors(f"recording the bake of release {bake.generation} of {self._model}"):
            durable.make_directory(path.parent)
            created = durable.create_file(path, to_json(bake))
        with contextlib.suppress(OSError):
            self._note(bake.generation).unlink(missing_ok=True)
        return bake if created else (self.find(bake.generation) or bake)

    def note_watch(self, generation: int, until: datetime) -> None:
        """Note for the gateway's page that a release is watched. Decides nothing, and may be lost.

        Args:
            generation: the release.
            until: when its bake is to end, aware.

        Raises:
            StorageFailed: the note can't be written.
        """
        path = self._note(generation)
        with storage_errors(f"noting the bake of release {generation} of {self._model}"):
            durable.make_directory(path.parent)
            durable.replace_file(path, utc_text(until) + "\n")

    def watched_until(self, generation: int) -> datetime | None:
        """Return when the bake of a release is to end; None without a note that can be read."""
        with contextlib.suppress(OSError, ValueError):
            until = datetime.fromisoformat(self._note(generation).read_text(encoding="utf-8")[:64].strip())
            return until if until.tzinfo else None
        return None

    def latest(self) -> Bake | None:
        """Return the bake of the newest release that has one, or None."""
        return next(self.newest_first(), None)

    def generations(self) -> set[int]:
        """Return the generations of the releases that have a bake; raises StorageFailed."""
        with storage_errors(f"listing {self._folder}"):
            return {int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdigit()}

    def newest_first(self) -> Iterator[Bake]:
        """Yield every bake, that of the newest release first.

        Raises:
            StorageFailed: a record can't be read.
        """
        for generation in sorted(self.generations(), reverse=True):
            bake = self.find(generation)
            if bake is not None:
                yield bake

    def _path(self, generation: int) -> Path:
        return self._folder / f"{generation:06d}.json"

    def _note(self, generation: int) -> Path:
        return self._folder / f"{generation:06d}.until"
