"""Counts the recent clients of each version, and the clients that it failed.

One client must not decide about a release.

The ``X-Canary-Key`` header names a client; without it, a client is an address with its API key. Only hashes
are kept, under a key that ends with the process.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable

from prometheus_client import Gauge
from prometheus_client.metrics import MetricWrapperBase
from starlette.types import Scope

WINDOW_S = 900.0
"""How long a client is remembered, seconds: as long as a bake, for clients with few requests."""
MOST = 1024
"""Most clients that are remembered for one version; further clients are not counted."""
FAILED = frozenset(("failed", "timeout"))
"""Outcomes for which a version is to blame."""

_KEYS = frozenset((b"x-api-key", b"authorization"))


def name_of(scope: Scope, header: bytes) -> bytes:
    """Return the name by which a request's client is counted.

    Args:
        scope: ASGI's scope of the request.
        header: the header by which a client names itself, in lower case.
    """
    api_key = b""
    for name, value in scope["headers"]:
        if name == header and value:
            return b"name " + bytes(value)
        if name in _KEYS:
            api_key = value
    address = scope.get("client")
    return b"address %s %s" % (address[0].encode() if address else b"", api_key)


class Recent:
    """The clients of the last ``WINDOW_S``, by their hashes.

    Args:
        clock: a monotonic clock, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # In the order of the last request, so that the oldest clients are at the front.
        self._seen_at: dict[bytes, float] = {}

    def add(self, client: bytes) -> None:
        """Note a request of a client; clients beyond ``MOST`` are not noted."""
        if self._seen_at.pop(client, None) is None and len(self._seen_at) >= MOST:
            self._forget()
            if len(self._seen_at) >= MOST:
                return
        self._seen_at[client] = self._clock()

    def count(self) -> int:
        """Return the number of clients within ``WINDOW_S``."""
        self._forget()
        return len(self._seen_at)

    def _forget(self) -> None:
        now = self._clock()
        while self._seen_at:
            oldest = next(iter(self._seen_at))
            if now - self._seen_at[oldest] < WINDOW_S:
                return
            del self._seen_at[oldest]


class Clients:
    """Counts clients by model and version.

    Args:
        clock: a monotonic clock, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(16)
        self._met: dict[tuple[str, str], Recent] = {}
        self._failed: dict[tuple[str, str], Recent] = {}
        labels = ["model", "version"]
        # The largest number of any worker, not the sum: two workers may meet the same client.
        self._met_gauge = Gauge(
            "gateway_clients",
            "Clients that asked within the last 15 minutes, 1024 at most.",
            labels,
            registry=None,
            multiprocess_mode="livemax",
        )
        self._failed_gauge = Gauge(
            "gateway_failed_clients",
            "Clients that had a request with outcome failed or timeout within the last 15 minutes, 1024 at most.",
            labels,
            registry=None,
            multiprocess_mode="livemax",
        )

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (self._met_gauge, self._failed_gauge)

    def seen(self, model: str, version: str, outcome: str, client: bytes) -> None:
        """Note a request; ``client`` is its name by ``name_of``."""
        key = (model, version)
        if key not in self._met:
            self.begin([key])
        hashed = hashlib.blake2b(client, digest_size=8, key=self._secret).digest()
        self._met[key].add(hashed)
        if outcome in FAILED:
            self._failed[key].add(hashed)

    def begin(self, keys: Iterable[tuple[str, str]]) -> None:
        """Show zeros for models and versions without a request so far."""
        for key in keys:
            self._met.setdefault(key, Recent(self._clock))
            self._failed.setdefault(key, Recent(self._clock))

    def refresh(self) -> None:
        """Update the gauges, because clients are forgotten as time passes.

        Call it on the event loop: in a thread, requests would change the clients meanwhile.
        """
        for gauge, clients in ((self._met_gauge, self._met), (self._failed_gauge, self._failed)):
            for key, recent in clients.items():
                gauge.labels(*key).set(recent.count())
