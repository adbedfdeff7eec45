"""What the gateway costs: requests a second and latencies of Triton, and of what stands before it, side by side.

    python bench/gateway.py triton=127.0.0.1:8000 gateway=127.0.0.1:8100 [proxy=…]

The first target is what the others are compared with. Rounds go from target to target in turn, so that what the machine does
beside it falls on all of them. The client is one process that writes prepared bytes and looks for the end of the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import orjson
import uvloop

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


def requests(model: str, columns: int) -> dict[str, bytes]:
    """Return the requests by name: v2 JSON, v2 binary and /predict, a row of ``columns`` numbers each."""
    tensor = {"name": "x", "shape": [1, columns], "datatype": "FP32"}
    as_json = orjson.dumps({"inputs": [{**tensor, "data": [1.0] * columns}]})
    binary = orjson.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": 4 * columns}}],
            "parameters": {"binary_data_output": True},
        }
    )
    path, values = f"/v2/models/{model}/infer", struct.pack(f"<{columns}f", *[1.0] * columns)
    return {
        "json": _request(path, as_json),
        "binary": _request(path, binary + values, f"Inference-Header-Content-Length: {len(binary)}\r\n"),
        "predict": _request(f"/predict/{model}", orjson.dumps({"rows": [[1.0] * columns]})),
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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", metavar="NAME=HOST:PORT")
    parser.add_argument(
        "--model", default="best_model", help="model with an input x of --columns numbers a row"
    )
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds for each figure (default: %(default)s)")
    options = parser.parse_args(argv)
    targets = dict(target.split("=", 1) for target in options.targets)
    base = next(iter(targets))
    print(
        f"{'request':8} {'conn.':>5} {'target':10} {'1/s':>7} {'p50 ms':>7} {'p95 ms':>7} {'p99 ms':>7} {'of ' + base:>10} {'added p50':>10}"
    )
    for name, request in requests(options.model, options.columns).items():
        for connections in (1, 16):
            asked = {t: a for t, a in targets.items() if name != "predict" or t == "gateway"}
            latencies: dict[str, list[float]] = defaultdict(list)
            rates: dict[str, list[float]] = defaultdict(list)
            for number in range(options.rounds + 1):
                for target, address in asked.items():
                    spent, rate = uvloop.run(measure(address, request, connections, options.seconds))
                    # The first round warms up.
                    if number:
                        latencies[target] += spent
                        rates[target].append(rate)
            for target in asked:
                cut = statistics.quantiles(latencies[target], n=100)
                row = f"{name:8} {connections:5} {target:10} {statistics.median(rates[target]):7.0f}"
                row += "".join(f" {1000 * cut[p - 1]:7.2f}" for p in (50, 95, 99))
                if target != base and base in asked:
                    ratio = statistics.median(a / b for a, b in zip(rates[target], rates[base], strict=True))
                    base_p50 = statistics.median(latencies[base])
                    row += f" {ratio:10.2f} {1000 * (cut[49] - base_p50):7.2f} ms"
                print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
