"""Limits of the work at once: requests at the models, a bounded queue before them, and memory for bodies."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import Busy

if TYPE_CHECKING:
    from .exchange import Exchange


class Admission:
    """Admits requests to the models, in the order of their arrival.

    Args:
        max_concurrency: most requests at the models at once.
        max_queue: most requests that wait.
        max_buffer_bytes: memory for bodies and answers, bytes.
    """

    def __init__(self, max_concurrency: int, max_queue: int, max_buffer_bytes: int) -> None:
        self._max_concurrency = self._free = max_concurrency
        self._max_queue = max_queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free_bytes = max_buffer_bytes

    @property
    def running(self) -> int:
        """Number of requests that have their turn."""
        return self._max_concurrency - self._free

    @property
    def waiting(self) -> int:
        """Number of requests that wait for their turn."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Wait for a turn, which the caller ends with ``leave``; raises Busy when the queue is full."""
        if self._free > 0 and not self._waiting:
            self._free -= 1
            return
        if len(self._waiting) >= self._max_queue:
            raise Busy("Too many requests wait for the model. Try again.")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The turn came in the same moment: give it to the next request.
                self.leave()
            elif turn in self._waiting:
                # Otherwise ``leave`` has passed over the cancelled turn in the same moment.
                self._waiting.remove(turn)
            raise

    async def enter_for(self, exchange: Exchange) -> None:
        """Wait for a turn as ``enter``, and mark the exchange as waiting meanwhile."""
        exchange.waiting = True
        await self.enter()
        exchange.waiting = False

    def leave(self) -> None:
        """End a turn: the next waiting request gets it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def hold(self, size: int) -> None:
        """Take ``size`` bytes of memory until ``drop``, for a body or an answer; raises Busy if full."""
        if size > self._free_bytes:
            raise Busy("Too many large bodies and answers are in memory. Try again.")
        self._free_bytes -= size

    def drop(self, size: int) -> None:
        """Give memory back."""
        self._free_bytes += size

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes of memory within a block; raises Busy if full."""
        self.hold(size)
        try:
            yield
        finally:
            self.drop(size)
