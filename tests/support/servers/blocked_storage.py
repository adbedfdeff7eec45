"""Storage that hangs: how a load hangs on purpose, at a place of our choosing, and goes on when we let it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def blocked(file: Path) -> Iterator[Callable[[], bool]]:
    """Make every open of a file wait until the block ends, by a lease, see fcntl(2); 45 s at most.

    Stopping the process that loads would not do: Triton has died of a backend that stood still while it
    held a lock.

    Yields:
        A function that returns whether a process waits.
    """
    previous = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(file, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(fd)
        signal.signal(signal.SIGIO, previous)
