"""What the gateway costs: requests a second and latencies of Triton, and of what stands before it, side by side.

Rounds go from one to the other in turn, so that what the machine does beside them falls on all. The client is one process that
writes prepared bytes and looks for the end of the answer; it, Triton and one gateway process share the machine's cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import re
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench.series import Series
from bench.site import MODEL, Site, site

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


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


def requests(model: str, name: str, columns: int) -> dict[str, bytes]:
    """Return the requests by kind, each with a row of ``columns`` numbers for the input ``name``."""
    tensor = {"name": name, "shape": [1, columns], "datatype": "FP32"}
    as_json = orjson.dumps({"inputs": [{**tensor, "data": [1.0] * columns}]})
    binary = orjson.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": 4 * columns}}],
            "parameters": {"binary_data_output": True},
        }
    )
    path, values = f"/v2/models/{model}/infer", struct.pack(f"<{columns}f", *[1.0] * columns)
    return {
        "v2 JSON": _request(path, as_json),
        "v2 binary": _request(path, binary + values, f"Inference-Header-Content-Length: {len(binary)}\r\n"),
        PREDICT: _request(f"/predict/{model}", orjson.dumps({"rows": [[1.0] * columns]})),
    }


def _request(path: str, body: bytes, headers: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )


async def measure(
    address: str, request: bytes, connections: int, duration_s: float
) -> tuple[list[float], float]:
    """Ask over some connections for a while; return every latency in seconds, and requests a second."""
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    began = time.perf_counter()
    made = [
        await loop.create_connection(lambda: Connection(request, began + duration_s), host, int(port))
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in made))
    latencies_s = [latency for _, connection in made for latency in connection.latencies_s]
    return latencies_s, len(latencies_s) / (time.perf_counter() - began)


def run(quick: bool) -> list[Series]:
    """Measure v2 and /predict through the gateway, nginx where it can be had, and Triton itself.

    Args:
        quick: a few short rounds only.

    Returns:
        For each kind of request and number of connections, requests a second and the latencies' p50, p95 and p99 in milliseconds; a value a round.
    """
    with site() as ready:
        return _measure(ready, quick)


def _measure(site: Site, quick: bool) -> list[Series]:
    rounds, duration_s = (4, 0.5) if quick else (8, 1.5)
    (name, array), *_ = site.inputs.items()
    with _targets(site) as targets:
        series = []
        for kind, request in requests(MODEL, name, array.shape[1]).items():
            for connections in (1, 16):
                print(f"  gateway: {kind}, {connections} connections", flush=True)
                asked = {t: a for t, a in targets.items() if kind != PREDICT or t == GATEWAY}
                figures = _rounds(asked, request, connections, rounds, duration_s)
                series += _series(f"{kind}, {connections} conn.", figures)
    return series


TRITON, GATEWAY, NGINX = "Triton", "gateway", "nginx"
PREDICT = "/predict"
PERCENTILES = (50, 95, 99)


@contextlib.contextmanager
def _targets(site: Site) -> Iterator[dict[str, str]]:
    """Yield the address of each way to the model."""
    triton, gateway = (site.stack.url(name).removeprefix("http://") for name in ("triton", "gateway"))
    targets = {TRITON: triton, GATEWAY: gateway}
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder, contextlib.ExitStack() as running:
        if platform.freedesktop_os_release().get("VERSION_CODENAME") == "bookworm":
            from tests.integration.test_gateway_nginx import Nginx

            nginx = running.enter_context(Nginx(Path(folder), [triton], gateway))
            targets[NGINX] = nginx.address
        else:
            print("  nginx is left out: it is taken from Debian 12", flush=True)
        yield targets


def _rounds(
    targets: Mapping[str, str], request: bytes, connections: int, rounds: int, duration_s: float
) -> dict[str, list[tuple[float, ...]]]:
    """Return for each target, by round, requests a second and the percentiles in milliseconds; taken in turn."""
    figures: dict[str, list[tuple[float, ...]]] = {target: [] for target in targets}
    for number in range(rounds + 1):
        for target, address in targets.items():
            spent_s, rate = uvloop.run(measure(address, request, connections, duration_s))
            # The first round warms up.
            if number:
                cut = statistics.quantiles(spent_s, n=100)
                figures[target].append((rate, *(1000 * cut[p - 1] for p in PERCENTILES)))
    return figures


def _series(what: str, figures: Mapping[str, Sequence[tuple[float, ...]]]) -> list[Series]:
    columns = (("requests", "/s"), *((f"p{p}", "ms") for p in PERCENTILES))
    return [
        Series(
            name=f"{what}: {target}, {column}",
            unit=unit,
            values=tuple(of_round[place] for of_round in of_target),
            baseline="" if target == TRITON or TRITON not in figures else f"{what}: {TRITON}, {column}",
        )
        for place, (column, unit) in enumerate(columns)
        for target, of_target in figures.items()
    ]
