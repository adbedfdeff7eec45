"""HTTP under load: one client process loads several servers in turn, so that other load hits all of them.

The client writes prepared bytes and reads to the end of the answer; it shares the machine's cores with the
servers.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from .series import Series, by_way

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_WARM_UP_S = 0.3


@dataclass(frozen=True)
class Target:
    """A server and the request that it gets.

    Attributes:
        address: ``host:port``.
        request: the whole request, see ``post``.
    """

    address: str
    request: bytes


@dataclass(frozen=True)
class Round:
    """The figures of one target in one round.

    Attributes:
        requests_per_s: answers a second, all connections together.
        latencies_ms: latency of each request, milliseconds.
    """

    requests_per_s: float
    latencies_ms: Sequence[float]

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the latencies, interpolated."""
        return statistics.quantiles(self.latencies_ms, n=100)[percent - 1]


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole request."""
    fields = {"Host": "bench", **(headers or {}), "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection that repeats a request.

    Args:
        request: the whole request.
        until: time to stop, ``time.perf_counter`` seconds.
    """

    def __init__(self, request: bytes, until: float) -> None:
        self._request = request
        self._until = until
        self._received = b""
        self.latencies_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport: Any = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end)
        assert length is not None
        if len(self._received) < end + 4 + int(length[1]):
            return
        now = time.perf_counter()
        if not self._received.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._received[:500].decode(errors="replace")))
            self._transport.close()
            return
        self.latencies_s.append(now - self._asked)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _ask(self) -> None:
        self._received = b""
        self._asked = time.perf_counter()
        self._transport.write(self._request)


async def measure(target: Target, connections: int, duration_s: float) -> Round:
    """Send requests to a target over several connections for a while.

    Raises:
        RuntimeError: the status of an answer is not 200; the text is the answer.
        ConnectionError: the server closed a connection.
    """
    loop = asyncio.get_running_loop()
    host, _, port = target.address.rpartition(":")
    began = time.perf_counter()
    made = [
        await loop.create_connection(lambda: Connection(target.request, began + duration_s), host, int(port))
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in made))
    took_s = time.perf_counter() - began
    latencies_ms = [1000 * latency for _, connection in made for latency in connection.latencies_s]
    return Round(len(latencies_ms) / took_s, latencies_ms)


def in_turn(
    targets: Mapping[str, Target], connections: int, rounds: int, duration_s: float
) -> dict[str, list[Round]]:
    """Return the rounds of each target; the targets take turns, after a warm-up each."""
    for target in targets.values():
        uvloop.run(measure(target, connections, _WARM_UP_S))
    measured: dict[str, list[Round]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, target in targets.items():
            measured[name].append(uvloop.run(measure(target, connections, duration_s)))
    return measured


def as_series(
    what: str, measured: Mapping[str, Sequence[Round]], *, baseline: str, percentiles: Sequence[int]
) -> list[Series]:
    """Return the requests a second and the percentiles of every target as series, a value for each round.

    Args:
        what: kind of the requests, the first part of each name.
        measured: rounds by target, see ``in_turn``.
        baseline: the target that the others are compared with; if it was not measured, none is compared.
        percentiles: percentiles of the latencies.
    """

    def values(figure: Callable[[Round], float]) -> dict[str, list[float]]:
        return {target: [figure(one) for one in rounds] for target, rounds in measured.items()}

    found = by_way(
        values(lambda one: one.requests_per_s), "/s", baseline=baseline, name=f"{what}: {{}}, requests"
    )
    for percent in percentiles:
        latencies = values(partial(Round.percentile_ms, percent=percent))
        found += by_way(latencies, "ms", baseline=baseline, name=f"{what}: {{}}, p{percent}")
    return found
