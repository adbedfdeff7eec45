"""A stop-watch for the parts of a script."""

from __future__ import annotations

import time


class Laps:
    """A stop-watch that runs from its creation.

    Attributes:
        took_s: seconds of each part, by name.
    """

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._clock = time.perf_counter()

    def end(self, part: str) -> None:
        """Record the end of a part; the next one begins."""
        self.took_s[part] = time.perf_counter() - self._clock
        self._clock = time.perf_counter()
