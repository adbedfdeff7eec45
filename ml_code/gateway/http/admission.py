"""How much is taken on at once: a number of requests at the models, a bounded queue before them, and memory for bodies."""

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
    """Admits requests to the models, in the order in which they came.

    Args:
        max_concurrency: requests at once.
        max_queue: requests that may wait.
        max_buffer_bytes: bytes of bodies and answers in memory.
    """

    def __init__(self, max_concurrency: int, max_queue: int, max_buffer_bytes: int) -> None:
        self._max_concurrency = self._free = max_concurrency
        self._max_queue = max_queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free_bytes = max_buffer_bytes

    @property
    def running(self) -> int:
        """How many requests have their turn."""
        return self._max_concurrency - self._free

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Wait for a turn; raises Busy when the queue is full. Whoever entered calls ``leave``."""
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
                # The turn came in the same moment: it is the next one's.
                self.leave()
            elif turn in self._waiting:
                # Otherwise whoever left in the same moment has passed it over already.
                self._waiting.remove(turn)
            raise

    async def enter_for(self, exchange: Exchange) -> None:
        """As ``enter``; the exchange says meanwhile that it waits."""
        exchange.waiting = True
        await self.enter()
        exchange.waiting = False

    def leave(self) -> None:
        """Give the turn to the next that waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def hold(self, size: int) -> None:
        """Take memory for ``size`` bytes of a body or an answer; raises Busy when there is none. Given back with ``drop``."""
        if size > self._free_bytes:
            raise Busy("Too many large bodies and answers are in memory. Try again.")
        self._free_bytes -= size

    def drop(self, size: int) -> None:
        """Give memory back."""
        self._free_bytes += size

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Have memory for ``size`` bytes within a block; raises Busy when there is none."""
        self.hold(size)
        try:
            yield
        finally:
            self.drop(size)
