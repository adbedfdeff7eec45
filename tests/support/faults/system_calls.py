"""Every call by which this process looks at files or changes them passes a gate, which may count it, note it or refuse it.

Python's own calls are replaced, those of its file objects included; what C libraries do by themselves is
not seen. The deployer changes files by Python alone, which was compared with strace(1): see
docs/reliability.md.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

CHANGES = (
    "chmod",
    "chown",
    "copy_file_range",
    "fchmod",
    "fchown",
    "fdatasync",
    "fsync",
    "ftruncate",
    "lchown",
    "link",
    "mkdir",
    "mkfifo",
    "mknod",
    "posix_fallocate",
    "pwrite",
    "pwritev",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "sendfile",
    "setxattr",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "write",
    "writev",
)
LOOKS = ("access", "listdir", "lstat", "pread", "read", "readlink", "scandir", "stat", "statvfs")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Call:
    """A call that is about to be made.

    Attributes:
        name: its name in ``os``; a file object's calls have those of ``os`` that do the same.
        args: its arguments; of a file object's calls as those of ``os`` have them, with the descriptor first.
        options: its keyword arguments.
        changes: whether it changes files, or closes one that was open for that.
    """

    name: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: bool = True


Gate = Callable[[Call, Callable[[], Any]], Any]
"""Makes a call by calling its second argument, and returns what that returned; or raises."""


class _Raw(io.FileIO):
    """What a file object is made of; with a gate in front of what reaches the kernel."""

    def __init__(self, gate: Gate, file: Any, mode: str, closefd: bool) -> None:
        super().__init__(file, mode, closefd)
        self._gate = gate

    def write(self, data: Any) -> int:
        return int(
            self._gate(Call("write", (self.fileno(), bytes(data))), lambda: super(_Raw, self).write(data))
        )

    def truncate(self, size: int | None = None) -> int:
        to = self.tell() if size is None else size
        return int(self._gate(Call("ftruncate", (self.fileno(), to)), lambda: super(_Raw, self).truncate(to)))

    def close(self) -> None:
        if not self.closed:
            self._gate(Call("close", (self.fileno(),)), super().close)


class _Gated:
    """The replacements of the calls, and which descriptors are open for writing."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._writing: set[int] = set()

    def plain(self, name: str, changes: bool) -> Callable[..., Any]:
        real = getattr(os, name)

        def gated(*args: Any, **options: Any) -> Any:
            return self._gate(Call(name, args, options, changes), lambda: real(*args, **options))

        return gated

    def open(self) -> Callable[..., int]:
        real = os.open

        def gated(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            call = Call("open", (path, flags), options, bool(flags & WRITING))
            fd: int = self._gate(call, lambda: real(path, flags, mode, **options))
            if flags & WRITING:
                self._writing.add(fd)
            return fd

        return gated

    def close(self) -> Callable[[int], None]:
        real = os.close

        def gated(fd: int) -> None:
            changes = fd in self._writing
            self._writing.discard(fd)
            self._gate(Call("close", (fd,), changes=changes), lambda: real(fd))

        return gated

    def open_file(self) -> Callable[..., Any]:
        real = io.open

        def gated(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if isinstance(file, int):
                self._writing.discard(file)
            if not set(mode) & set("wax+"):
                if isinstance(file, int):
                    return real(file, mode, *args, **options)
                call = Call("open", (file, os.O_RDONLY), changes=False)
                return self._gate(call, lambda: real(file, mode, *args, **options))
            return self._writer(file, mode, *args, **options)

        return gated

    def _writer(
        self,
        file: Any,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
    ) -> Any:
        assert buffering == -1, "unbuffered files are not foreseen here"

        def make() -> _Raw:
            return _Raw(self._gate, file, "".join(set(mode) - set("bt")), closefd)

        if isinstance(file, int):
            raw = make()
        else:
            flags = os.O_CREAT | (os.O_RDWR if "+" in mode else os.O_WRONLY)
            flags |= {"w": os.O_TRUNC, "x": os.O_EXCL, "a": os.O_APPEND}.get(mode.strip("bt+"), 0)
            raw = self._gate(Call("open", (file, flags)), make)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


@contextmanager
def gated(gate: Gate) -> Iterator[None]:
    """Let all calls of the block, in every thread, pass ``gate``."""
    calls = _Gated(gate)
    with pytest.MonkeyPatch.context() as patch:
        replaced = {name: calls.plain(name, True) for name in CHANGES}
        replaced |= {name: calls.plain(name, False) for name in LOOKS}
        replaced |= {"open": calls.open(), "close": calls.close()}
        open_file = calls.open_file()
        for name, call in replaced.items():
            patch.setattr(os, name, call)
        patch.setattr(io, "open", open_file)
        patch.setattr(builtins, "open", open_file)
        yield
