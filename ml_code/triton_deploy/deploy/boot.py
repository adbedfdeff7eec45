"""When this machine was started: a power cut ends a deployer and its Triton at once, and no model is to blame for it."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path


def booted_at() -> datetime | None:
    """Return when, also from within a container; None where the system does not say (proc_uptime(5))."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        up_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return datetime.fromtimestamp(time.time() - up_s, UTC)
    return None
