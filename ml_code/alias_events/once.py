"""Work that is done once, however often and however concurrently it is asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Remembers what was done, by key; what failed is forgotten and may be tried again.

    Args:
        most: keys that are remembered; the oldest goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: OrderedDict[str, asyncio.Task[T]] = OrderedDict()

    async def do(self, key: str, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return what ``work`` gives, and whether it was done for this call.

        Calls that come meanwhile wait for the first one's work, and raise what it raises.
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
