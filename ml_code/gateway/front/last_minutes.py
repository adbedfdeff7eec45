"""Traffic of the last minutes, for the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from ..http.metrics import BUCKETS_S, Sums

ByVersion = Mapping[tuple[str, str], Sums]
"""Sums by model and version."""


class LastMinutes:
    """Rate, error rate and latency over the last minutes, from sums taken at intervals.

    Args:
        sums: returns the present sums.
        length: number of intervals to keep.
    """

    def __init__(self, sums: Callable[[], ByVersion], length: int = 60) -> None:
        self._sums = sums
        self._taken: deque[tuple[float, ByVersion]] = deque(maxlen=length + 1)

    def take(self, now: float) -> None:
        """Take the sums; called at each interval.

        Args:
            now: seconds since the epoch.
        """
        before = self._taken[-1][1] if self._taken else {}
        # Most versions get no requests: an unchanged sum is kept once.
        sums = {key: before[key] if before.get(key) == now_ else now_ for key, now_ in self._sums().items()}
        self._taken.append((now, sums))

    def points(self, model: str) -> list[dict[str, float | None]]:
        """Return the traffic of a model in each interval, oldest first.

        Returns:
            End of the interval, requests a second, failed share, p50 and p95 (s).
        """
        taken = [(at, _of_model(sums, model)) for at, sums in self._taken]
        return [
            {
                "at": now,
                "rate": (after.count - before.count) / max(now - then, 1e-9),
                **_figures(after - before),
            }
            for (then, before), (now, after) in pairwise(taken)
        ]

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Return the traffic of each version of a model over all intervals together, newest version first.

        Returns:
            Version, number of requests, failed share, p50 and p95 (s); versions without requests are left
            out, and so are requests that no version was live for.
        """
        taken = list(self._taken)
        if len(taken) < 2:
            return []
        first, last = taken[0][1], taken[-1][1]
        found = []
        for (of, version), sums in last.items():
            came = sums - first.get((of, version), Sums())
            if of == model and version.isdigit() and came.count > 0:
                found.append({"version": int(version), "requests": round(came.count), **_figures(came)})
        return sorted(found, key=lambda one: one["version"], reverse=True)

    @property
    def length_s(self) -> float:
        """Time that the sums cover now, seconds."""
        return self._taken[-1][0] - self._taken[0][0] if self._taken else 0.0


def _of_model(sums: ByVersion, model: str) -> Sums:
    return sum((one for (of, _), one in sums.items() if of == model), Sums())


def _figures(came: Sums) -> dict[str, float | None]:
    return {
        "failed": came.failed / max(came.count, 1),
        "p50_s": quantile(0.50, came),
        "p95_s": quantile(0.95, came),
    }


def quantile(q: float, came: Sums) -> float | None:
    """Return a quantile of the durations of requests, interpolated in its bucket; None without requests.

    Args:
        q: the quantile, 0 to 1.
        came: sums of the requests.
    """
    # In Prometheus' form each bucket holds the requests of the smaller ones as well.
    counts = came.buckets
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
