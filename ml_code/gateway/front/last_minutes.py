"""Traffic of the last minutes, for the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

from ..http.metrics import BUCKETS_S, Sums


class LastMinutes:
    """Rate, error rate and latency over the last minutes, from sums taken at intervals.

    Args:
        sums: returns the present sums.
        length: number of intervals to keep.
    """

    def __init__(self, sums: Callable[[], Sums], length: int = 60) -> None:
        self._sums = sums
        self._taken: deque[tuple[float, Sums]] = deque(maxlen=length + 1)

    def take(self, now: float) -> None:
        """Take the sums; called at each interval.

        Args:
            now: seconds since the epoch.
        """
        self._taken.append((now, self._sums()))

    def points(self) -> list[dict[str, float | None]]:
        """Return end, requests a second, failed share, p50 and p95 (s) of each interval, oldest first."""
        taken = list(self._taken)
        return [
            {
                "at": now,
                "rate": (after.count - before.count) / max(now - then, 1e-9),
                "failed": (after.failed - before.failed) / max(after.count - before.count, 1),
                "p50_s": quantile(0.50, before, after),
                "p95_s": quantile(0.95, before, after),
            }
            for (then, before), (now, after) in pairwise(taken)
        ]


def quantile(q: float, before: Sums, after: Sums) -> float | None:
    """Return a quantile of the durations between two sums, interpolated in its bucket; None without requests.

    Args:
        q: the quantile, 0 to 1.
        before: sums at the beginning.
        after: sums at the end.
    """
    counts = [b - a for a, b in zip(before.buckets, after.buckets, strict=True)]
    wanted = q * counts[-1]
    if counts[-1] <= 0:
        return None
    below, lower_s = 0.0, 0.0
    for count, upper_s in zip(counts, BUCKETS_S, strict=False):
        if count >= wanted:
            share = (wanted - below) / (count - below) if count > below else 1.0
            return lower_s + share * (upper_s - lower_s)
        below, lower_s = count, upper_s
    return lower_s
