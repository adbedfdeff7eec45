"""HTTP under load: one client process asks servers in turn, so that what the machine does beside them falls on all.

The client writes prepared bytes and looks for the end of the answer; it and the servers share the machine's cores.
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
    """A server, and what it is asked.

    Attributes:
        address: ``host:port``.
        request: the whole request, see ``post``.
    """

    address: str
    request: bytes


@dataclass(frozen=True)
class Round:
    """What one target did in one round.

    Attributes:
        requests_per_s: answers a second, all connections together.
        latencies_ms: of every request.
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
    """One connection that asks the same again and again.

    Args:
        request: the whole request.
        until: when to stop, ``time.perf_counter`` seconds.
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
    """Ask a target over some connections for a while.

    Raises:
        RuntimeError: an answer has another status than 200; its text is the answer's.
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
    """Return each target's rounds; every target has its turn in each, after one that warms it up."""
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
    """Return a series of requests a second and one of each percentile for every target, a value a round.

    Args:
        what: what was asked, the beginning of each name.
        measured: rounds by target, see ``in_turn``.
        baseline: the target that the others are compared with; one that was not measured compares nothing.
        percentiles: of the latencies, in percent.
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
