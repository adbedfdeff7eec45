"""A process that is killed, or stopped and continued, at the n-th call of an operation that has effects.

In one process: a killed one gets an exception from every call from the n-th on, so that no ``except`` or
``finally`` can clean up, as none can after a SIGKILL. A stopped one finds, when its n-th call goes through,
that others were at work meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.fakes import FakeTriton
from tests.support.faults.system_calls import Call, gated

ON_TRITON = ("load", "unload", "infer")


class Killed(BaseException):
    pass


class Watched:
    """Counts the calls to the file system and to Triton that have effects.

    ``called`` comes before each, ``returned`` after it, also when it failed.

    Attributes:
        count: how many there were.
        about: name and subject of the last call.
    """

    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton
        self.about = ""
        self._elsewhere = False
        """Triton's own file access happens in another process."""
        self.count = 0

    def called(self) -> None:
        self.count += 1

    def returned(self) -> None:
        pass

    def _gate(self, call: Call, make: Callable[[], Any]) -> Any:
        # A file that is closed, or that is only looked at, is as it was.
        if not call.changes or call.name == "close" or self._elsewhere:
            return make()
        self.about = f"{call.name} {call.args}"
        self.called()
        try:
            return make()
        finally:
            self.returned()

    def _guard_remote(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._elsewhere:
                return real(*args, **kwargs)
            self.about = f"{real.__name__} {args[0]}"
            self.called()
            self._elsewhere = True
            try:
                return real(*args, **kwargs)
            finally:
                self._elsewhere = False
                self.returned()

        return guarded

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, gated(self._gate):
            for name in ON_TRITON:
                patch.setattr(self._triton, name, self._guard_remote(getattr(self._triton, name)))
            patch.setattr(self._triton, "index", self._with_its_own_disk(self._triton.index))
            yield

    def _with_its_own_disk(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call whose reads do not count, because another process makes them."""

        def looking(*args: Any, **kwargs: Any) -> Any:
            before, self._elsewhere = self._elsewhere, True
            try:
                return real(*args, **kwargs)
            finally:
                self._elsewhere = before

        return looking


class Recorder(Watched):
    """Lets everything through.

    Attributes:
        calls: the subjects of the calls, in their order.
    """

    def __init__(self, triton: FakeTriton) -> None:
        super().__init__(triton)
        self.calls: list[str] = []

    def called(self) -> None:
        super().called()
        self.calls.append(self.about)


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


class Sleeper(Watched):
    """Sleeps once, before or after its ``at``-th call, while ``meanwhile`` happens; then goes on, or is killed at once.

    Attributes:
        slept: whether it came to that call.
    """

    def __init__(
        self,
        triton: FakeTriton,
        at: int,
        meanwhile: Callable[[], object],
        *,
        after: bool = False,
        killed: bool = False,
    ) -> None:
        """Prepare.

        Args:
            triton: the Triton whose calls count.
            at: the call at which it sleeps, from 1.
            meanwhile: called while the process sleeps.
            after: whether it sleeps after that call.
            killed: whether it is killed when it has woken and that call has returned.
        """
        super().__init__(triton)
        self._at, self._meanwhile, self._after, self._killed = at, meanwhile, after, killed
        self._due = self._awake = self.slept = False

    def called(self) -> None:
        super().called()
        if self._awake and self._killed:
            raise Killed
        if self.count == self._at and not self.slept:
            self._due = True
            if not self._after:
                self._sleep()

    def returned(self) -> None:
        if self._due:
            self._sleep()
        if self._awake and self._killed:
            raise Killed

    def _sleep(self) -> None:
        self._due, self.slept = False, True
        self._meanwhile()
        self._awake = True
