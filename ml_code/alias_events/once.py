"""Does the work of a key once, also for repeated and concurrent calls."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Remembers results by key. A failure is forgotten, so that the next call tries again.

    Args:
        most: number of remembered keys; the oldest is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: OrderedDict[str, asyncio.Task[T]] = OrderedDict()

    async def do(self, key: str, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return the result of ``work``, and whether this call began the work.

        Concurrent calls with the same key wait for the work of the first call, and raise its error.
        """
        task = self._tasks.get(key)
        first = task is None
        if task is None:
            task = asyncio.ensure_future(_of(work))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._forget_failure(key, done))
            while len(self._tasks) > self._most:
                self._tasks.popitem(last=False)
        # A client that goes away must not stop the work that others wait for.
        return await asyncio.shield(task), first

    def _forget_failure(self, key: str, done: asyncio.Task[T]) -> None:
        if (done.cancelled() or done.exception() is not None) and self._tasks.get(key) is done:
            del self._tasks[key]


async def _of(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
