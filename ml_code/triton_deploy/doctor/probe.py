"""A short-lived folder in the model repository, to test access, clocks and the Tritons' view.

It shows whether this user can write there, which clock the file system has, and which Tritons see it.

Its name begins with a dot, unlike those of models and engines, so deploys, reconcile and gc ignore it. A
doctor that is killed leaves its folder behind; a later doctor removes it.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

PREFIX = ".doctor-"
FORGOTTEN_S = 3600.0
"""Age from which a probe counts as left behind, seconds."""


class Probe:
    """The folder of one check.

    Args:
        root: the model repository.
    """

    def __init__(self, root: Path | None) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(8)}"
        self._path = root / self.name if root else None
        self._over = False

    def make(self) -> Path:
        """Create the folder and return its path; raises OSError."""
        if self._path is None or self._over:
            raise FileNotFoundError(self.name)
        self._path.mkdir(mode=0o755)
        return self._path

    def remove(self) -> None:
        """Remove the folder if it exists; ``make`` fails from now on."""
        self._over = True
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)


def remove_forgotten(root: Path) -> list[str]:
    """Remove the probes of killed doctors; return the names of the removed folders."""
    forgotten = [path for path in root.glob(f"{PREFIX}*") if _age_s(path) > FORGOTTEN_S]
    for path in forgotten:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in forgotten if not path.exists())


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        # Another doctor has just removed its probe.
        return 0.0
