"""The configuration of a model's switch, the Triton model that clients call.

It follows from the live release.
"""

from __future__ import annotations

from pathlib import Path

from ..storage import storage_errors
from . import durable

SWITCH_CONFIG = "config.pbtxt"


class SwitchConfig:
    """The file that tells a restarted Triton which version the public name serves.

    Args:
        folder: the model's directory.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SWITCH_CONFIG

    def read(self) -> str | None:
        """Return the configuration on disk, or None when there is none."""
        with storage_errors(f"reading {self._path}"):
            return self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else None

    def write(self, config: str) -> None:
        """Write the configuration; a file that holds it already keeps its times."""
        with storage_errors(f"writing {self._path}"):
            durable.ensure_content(self._path, config)
