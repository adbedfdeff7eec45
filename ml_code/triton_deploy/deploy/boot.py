"""The time at which this machine started: a power cut, which ends deployer and Triton, blames no model."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path


def booted_at() -> datetime | None:
    """Return that time, aware, also within a container; None if the system does not tell (proc_uptime(5))."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        up_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return datetime.fromtimestamp(time.time() - up_s, UTC)
    return None
