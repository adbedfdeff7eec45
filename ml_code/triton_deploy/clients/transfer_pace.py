"""Decides how long a transfer waits for its server: as long as bytes arrive, and arrive fast enough.

The clock runs only while at least one stream waits for the server, so a slow local disk never counts
against the server.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import Unavailable

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 2.0


class Pace:
    """The limits of one transfer, shared by its streams.

    Args:
        silence_s: longest time without a byte on any stream, seconds.
        min_bytes_per_s: least average speed over each ``silence_s``, bytes a second; 0 allows any.
        clock: seconds, for tests.

    A transfer of ``size`` bytes waits at most ``silence_s + size / min_bytes_per_s`` seconds, because each
    ``silence_s`` must bring its share.
    """

    def __init__(
        self, silence_s: float, min_bytes_per_s: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._silence_s = silence_s
        self._share = min_bytes_per_s * silence_s
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._waiting = 0
        self._waiting_since_s = 0.0
        self._waited_s = 0.0
        self._last_byte_s = 0.0
        self._window_began_s = 0.0
        self._window_bytes = 0
        self._too_slow: str | None = None

    @property
    def silence_s(self) -> float:
        """Longest time without a byte, seconds."""
        return self._silence_s

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the clock run while the body of the ``with`` statement waits for the server."""
        with self._lock:
            if not self._waiting:
                self._waiting_since_s = self._clock()
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._waited_s += self._clock() - self._waiting_since_s

    def arrived(self, count: int) -> None:
        """Count bytes that arrived."""
        with self._lock:
            self._last_byte_s = self._now_s()
            self._window_bytes += count

    def left_s(self) -> float:
        """Return how long the server may still keep silent, seconds; 0 when the transfer is over."""
        with self._lock:
            now_s = self._now_s()
            self._judge_window(now_s)
            if self._too_slow or self._stopped.is_set():
                return 0.0
            return max(self._last_byte_s + self._silence_s - now_s, 0.0)

    def pause(self, seconds: float) -> bool:
        """Wait before the next attempt, but no longer than the server may keep silent.

        Returns:
            Whether another attempt is allowed.
        """
        with self.waiting():
            self._stopped.wait(min(seconds, self.left_s()))
        return self.left_s() > 0

    def stop(self) -> None:
        """End the transfer: another of its streams failed."""
        self._stopped.set()

    def given_up(self, server: str) -> Unavailable:
        """Return the error for a transfer that is over.

        Args:
            server: name of the server in messages.
        """
        if self._too_slow:
            return Unavailable(
                f"{server} sends too slowly: {self._too_slow}.",
                hint="Check the network to it, then deploy again; for a slow line set TRITON_DEPLOY_TRANSFER_MIN_BYTES_PER_S lower.",
            )
        # Imported late: judging the pace needs no HTTP library.
        from .http import SilentServer

        return SilentServer(
            f"{server} did not answer in time: nothing came for {self._silence_s:g} s.",
            hint="Check that it runs and can be reached from this worker, then deploy again.",
        )

    def _now_s(self) -> float:
        return self._waited_s + (self._clock() - self._waiting_since_s if self._waiting else 0.0)

    def _judge_window(self, now_s: float) -> None:
        if now_s - self._window_began_s < self._silence_s or self._too_slow:
            return
        if self._window_bytes < self._share and self._window_bytes:
            took_s = now_s - self._window_began_s
            self._too_slow = (
                f"{self._window_bytes} bytes came in {took_s:.1f} s, {self._share:.0f} were to come"
            )
        self._window_began_s, self._window_bytes = now_s, 0


class Repeats:
    """The pauses between the attempts of one stream: they double while no byte arrives.

    Args:
        pace: of the transfer.
        chance: returns a random number from 0 to 1, so that streams that failed together do not retry
            together.
    """

    def __init__(self, pace: Pace, chance: Callable[[], float] = random.random) -> None:
        self._pace = pace
        self._chance = chance
        self._next_s = FIRST_PAUSE_S

    def go_on(self, *, progressed: bool, asked_s: float = 0.0) -> bool:
        """Wait, then return whether to try again.

        Args:
            progressed: whether the last attempt brought bytes.
            asked_s: pause that the server asked for, seconds; granted up to half of the remaining time.
        """
        pause_s = FIRST_PAUSE_S if progressed else self._next_s
        self._next_s = min(2 * pause_s, LONGEST_PAUSE_S)
        own_s = pause_s * (0.5 + self._chance() / 2)
        return self._pace.pause(max(own_s, min(asked_s, self._pace.left_s() / 2)))
