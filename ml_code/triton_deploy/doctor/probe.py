"""A folder in the model repository for a moment: shows who can write, whose clock it has, and which Triton sees it.

Its name begins with a dot, which no model's and no engine's does, so deploys, reconcile and gc pass it by. A doctor that was killed
leaves it; the next one removes it.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

PREFIX = ".doctor-"
FORGOTTEN_S = 3600.0
"""From this age on a probe is nobody's any more, seconds."""


class Probe:
    """One such folder.

    Args:
        root: the model repository.
    """

    def __init__(self, root: Path | None) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(8)}"
        self._path = root / self.name if root else None
        self._over = False

    def make(self) -> Path:
        """Create it; raises OSError."""
        if self._path is None or self._over:
            raise FileNotFoundError(self.name)
        self._path.mkdir(mode=0o755)
        return self._path

    def remove(self) -> None:
        """Remove it, if it is there; it is not made again."""
        self._over = True
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)


def remove_forgotten(root: Path) -> list[str]:
    """Remove the probes of doctors that were killed; return their names."""
    forgotten = [path for path in root.glob(f"{PREFIX}*") if _age_s(path) > FORGOTTEN_S]
    for path in forgotten:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in forgotten if not path.exists())


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        # Another doctor has just ended.
        return 0.0
