"""A stop-watch for scripts that are measured part by part."""

from __future__ import annotations

import time


class Laps:
    """Runs from when it is made.

    Attributes:
        took_s: seconds of each part, by name.
    """

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._clock = time.perf_counter()

    def end(self, part: str) -> None:
        """Note that a part ends now, and the next one begins."""
        self.took_s[part] = time.perf_counter() - self._clock
        self._clock = time.perf_counter()
