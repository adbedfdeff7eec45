"""Which processes belong to a stack."""

from __future__ import annotations

import os
from pathlib import Path


def processes_of(state_dir: Path) -> list[int]:
    """The processes that run below the stack of `state_dir`.

    Told by their working directory, which they inherit: a new title overwrites command line and environment.
    """
    return [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _runs_in(pid, state_dir / "run")
    ]


def _runs_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except OSError:
        return False
