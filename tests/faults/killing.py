"""A process that is killed, or stopped and continued, at the n-th call of an operation that has effects.

In one process: a killed one gets an exception from every call from the n-th on, so that no ``except`` or ``finally`` can clean
up, as none can after a SIGKILL. A stopped one finds, when its n-th call goes through, that others were at work meanwhile.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes import FakeTriton

CALLS = (
    "open",
    "link",
    "rename",
    "replace",
    "fsync",
    "unlink",
    "mkdir",
    "rmdir",
    "symlink",
    "chmod",
    "pwrite",
)


class Killed(BaseException):
    pass


class Watched:
    """Counts the calls to the file system and to Triton that have effects; ``called`` comes before each."""

    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton
        self._elsewhere = False
        """What Triton does with files, another process does."""
        self.count = 0

    def called(self) -> None:
        self.count += 1

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not self._elsewhere:
                self.called()
            return real(*args, **kwargs)

        return guarded

    def _guard_remote(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._elsewhere:
                return real(*args, **kwargs)
            self.called()
            self._elsewhere = True
            try:
                return real(*args, **kwargs)
            finally:
                self._elsewhere = False

        return guarded

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._guard(getattr(os, name)))
            patch.setattr(io, "open", self._guard(io.open))
            for name in ("load", "unload", "infer"):
                patch.setattr(self._triton, name, self._guard_remote(getattr(self._triton, name)))
            yield


class Killer(Watched):
    """Lets no call through from the ``at``-th on."""

    def __init__(self, triton: FakeTriton, at: int) -> None:
        super().__init__(triton)
        self._at = at

    @property
    def struck(self) -> bool:
        return self.count >= self._at

    def called(self) -> None:
        super().called()
        if self.struck:
            raise Killed


class Stopper(Watched):
    """Stops before the ``at``-th call while ``meanwhile`` happens, then goes on."""

    def __init__(self, triton: FakeTriton, at: int, meanwhile: Callable[[], object]) -> None:
        super().__init__(triton)
        self._at, self._meanwhile = at, meanwhile

    def called(self) -> None:
        super().called()
        if self.count == self._at:
            self._meanwhile()
