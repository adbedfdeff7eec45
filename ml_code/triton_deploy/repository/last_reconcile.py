"""The result of a model's last reconcile, for metrics and pages. No decision depends on it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..rules.reconcile_note import ReconcileNote
from ..rules.writer import to_json
from ..storage import storage_errors
from . import durable


class LastReconcile:
    """The note of the last reconcile; each one replaces it.

    Args:
        path: the note's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, note: ReconcileNote) -> None:
        """Replace the note; raises StorageFailed when it can't be written."""
        with storage_errors(f"writing {self._path}"):
            durable.replace_file(self._path, to_json(note))

    def read(self) -> ReconcileNote | None:
        """Return the note, or None when there is none or it can't be read."""
        with contextlib.suppress(OSError, ValueError):
            return ReconcileNote.from_json(self._path.read_text(encoding="utf-8"))
        return None
