"""Whether a request that a Triton had when its connection ended is given to another one.

Inference changes nothing, so computing it twice is safe. But a request may be what ended the Triton: one that ends the second
as well would go through all of them with the next that a client sends. So repeats stop for a while when that was seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from .errors import Unavailable

WITHIN_S = 10.0
"""Two Tritons that end within this time while they have the same request ended of it, as far as anybody can tell."""
STOP_S = 60.0


class Repeats:
    """Counts what is repeated, and stops it.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stopped_until = 0.0
        self._repeated = Counter(
            "gateway_repeated_requests",
            "Requests that a Triton had when its connection ended, and that were given to another one.",
            registry=None,
        )
        self._refused = Counter(
            "gateway_unrepeated_requests",
            "Requests that a Triton had when its connection ended, and that were refused because repeats are stopped.",
            registry=None,
        )
        self._stops = Counter(
            "gateway_repeats_stopped",
            "How often repeats were stopped, because a second Triton ended while it had a repeated request.",
            registry=None,
        )

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (self._repeated, self._refused, self._stops)

    def begin(self) -> float:
        """Note that a request is repeated; returns when, for ``ended_again``.

        Raises:
            Unavailable: repeats are stopped.
        """
        now = self._clock()
        if now < self._stopped_until:
            self._refused.inc()
            raise Unavailable(
                "A Triton ended while it had this request. Requests are not repeated on another one for now, because two ended "
                "that way. Send it again only if it is none that could end a Triton.",
                retry_after_s=self._stopped_until - now,
            )
        self._repeated.inc()
        return now

    def ended_again(self, began: float) -> None:
        """Note that a Triton ended while it had a repeated request.

        Args:
            began: when it was repeated, as ``begin`` said.
        """
        now = self._clock()
        if now - began <= WITHIN_S:
            self._stopped_until = now + STOP_S
            self._stops.inc()
