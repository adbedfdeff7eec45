"""A file system that fails: at one call, or from one call on until the operation has ended."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.fakes import FakeTriton
from tests.support.faults.killed_process import Watched
from tests.support.faults.system_calls import Call

_WRITE: dict[str, Callable[..., int]] = {"write": os.write, "pwrite": os.pwrite}
"""As they are while nothing is gated."""


@dataclass(frozen=True)
class Fault:
    """A failure of the disk.

    Attributes:
        what: name in reports.
        number: the ``errno``.
        hits: whether it may happen to a call.
        partly: of what is to be written, half is, without an error: what a write is allowed to do.
    """

    what: str
    number: int
    hits: Callable[[Call], bool]
    partly: bool = False


FAULTS = (
    Fault("ENOSPC", errno.ENOSPC, lambda call: call.changes),
    # A file that was opened for reading can be closed.
    Fault("EIO", errno.EIO, lambda call: call.changes or call.name != "close"),
    Fault("fsync fails", errno.EIO, lambda call: call.name == "fsync"),
    Fault("short write", errno.ENOSPC, lambda call: call.name in _WRITE, partly=True),
)


class FailingDisk(Watched):
    """Fails at the ``at``-th call that the fault may hit, and with ``lasting`` at every later one.

    A short write that lasts is followed by ENOSPC, as on a disk that is full.
    """

    def __init__(self, triton: FakeTriton, fault: Fault, at: int, lasting: bool) -> None:
        super().__init__(triton)
        self._fault, self._at, self._lasting = fault, at, lasting
        self.call: Call | None = None
        """The call that failed first."""
        self.doubtful: int | None = None
        """A descriptor of the file that could not be synced, if that was it."""

    def called(self) -> None:
        """Calls to Triton go through."""

    def _gate(self, call: Call, make: Callable[[], Any]) -> Any:
        if self._elsewhere or not self._fault.hits(call):
            return make()
        self.count += 1
        if self.count < self._at or (self.count > self._at and not self._lasting):
            return make()
        self.call = self.call or call
        if self._fault.partly and self.count == self._at:
            return _half(call)
        if call.name == "fsync" and stat.S_ISREG(os.fstat(call.args[0]).st_mode):
            self.doubtful = self.doubtful or os.dup(call.args[0])
        if call.name == "close":
            # The descriptor is gone also when close(2) reports an error.
            make()
        raise OSError(self._fault.number, os.strerror(self._fault.number), *_path(call))


def _half(call: Call) -> int:
    fd, data, *offset = call.args
    return _WRITE[call.name](fd, bytes(data)[: max(1, len(data) // 2)], *offset)


def _path(call: Call) -> tuple[Any, ...]:
    return call.args[:1] if call.args and not isinstance(call.args[0], int) else ()
