"""Decides whether a request whose Triton ended is repeated on another Triton.

Inference changes nothing, so a repeat is safe. But the request itself may have ended the Triton, and each
repeat could then end another one. So repeats stop for a while after a repeat has ended a second Triton.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from .errors import Unavailable

WITHIN_S = 10.0
"""A request that two Tritons had when they ended within this time counts as the cause, seconds."""
STOP_S = 60.0
"""How long repeats stop then, seconds."""


class Repeats:
    """Counts repeats, and stops them.

    Args:
        clock: a monotonic clock, seconds.
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
        """Note a repeat, and return its time for ``ended_again``.

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
        """Note that a second Triton ended while it had a repeated request.

        Args:
            began: time of the repeat, from ``begin``.
        """
        now = self._clock()
        if now - began <= WITHIN_S:
            self._stopped_until = now + STOP_S
            self._stops.inc()
