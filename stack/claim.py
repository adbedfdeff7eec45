"""A state directory belongs to one stack at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from .errors import StackError


class Claim:
    """The right to use a state directory: a lock on a file, which names the process that holds the lock.

    The guard of the stack's processes inherits the lock, so a stack that is still stopping holds it, too.
    """

    def __init__(self, state_dir: Path) -> None:
        """Name the directory; does not take the lock yet."""
        self._dir = state_dir
        self._file = state_dir / "run" / "lock"
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock, before any change in the directory; no effect if this object already holds it.

        Raises:
            StackError: another stack holds the lock; the text names its process.
        """
        if self._descriptor is not None:
            return
        self._file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise StackError(self._taken(pid)) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def clear(self) -> None:
        """Delete the files of an earlier stack; needs the lock."""
        self.fileno()
        for path in [*self._dir.iterdir(), *self._file.parent.iterdir()]:
            if path.is_dir() and not path.is_symlink():
                if path != self._file.parent:
                    shutil.rmtree(path)
            elif path != self._file:
                path.unlink()

    def fileno(self) -> int:
        """Return the descriptor that holds the lock, for a process that is to share it."""
        assert self._descriptor is not None, "take it first"
        return self._descriptor

    def give_back(self) -> None:
        """Close the lock's descriptor; other stacks can take the lock once no process shares it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _taken(self, pid: str) -> str:
        if pid and Path("/proc", pid).exists():
            return (
                f"a stack is running in {self._dir} (pid {pid}), and goes on: use that one, or end it first "
                f"(Ctrl-C where it was started, or kill {pid})"
            )
        return f"the stack in {self._dir} is still being stopped: try again in some seconds"
