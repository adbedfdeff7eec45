"""Clients that read slowly, send halves or send too much, beside others who must not notice them."""

from __future__ import annotations

import contextlib
import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import requests

from tests.support.servers.gateways import Gateway
from tests.support.servers.hostile import request
from tests.support.servers.v2_bodies import LARGE, large_request, live_on_a_triton, write_large_model
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

MIB = 1 << 20
OWN = 1_000_000.0
"""What the ordinary clients ask for, and nobody else."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """`large(**settings)` starts a gateway before a Triton whose model answers as much as one wants."""
    folder = tmp_path_factory.mktemp("large")
    with ExitStack() as running:
        _, environment = running.enter_context(live_on_a_triton(folder, LARGE, write_large_model))

        def start(**settings: str) -> Gateway:
            log = folder / f"gateway-{time.monotonic_ns()}.log"
            return running.enter_context(Gateway(log, {**environment, **settings}))

        yield start


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@dataclass
class Others:
    """Clients who ask in turn for 80 kB of their own number, and look at every byte of it."""

    gateway: Gateway
    times_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.wait(0.02):
                began = time.perf_counter()
                try:
                    answer = session.post(
                        f"{self.gateway.url}/v2/models/{LARGE}/infer",
                        data=large_request(OWN, 20_000),
                        timeout=60,
                    )
                    length = int(answer.headers.get("Inference-Header-Content-Length", 0))
                    values = np.frombuffer(answer.content[length:], np.float32)
                    if answer.status_code != 200 or values.shape != (20_000,) or (values != OWN).any():
                        self.wrong.append(f"{answer.status_code} {answer.content[:200]!r}")
                except requests.RequestException as error:
                    self.wrong.append(repr(error))
                self.times_s.append(time.perf_counter() - began)


class SlowReader:
    """A client that asks for 16 MB and reads next to nothing of it."""

    def __init__(self, gateway: Gateway, x: float) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", gateway.port))
        self.socket.sendall(request("POST", f"/v2/models/{LARGE}/infer", large_request(x, 4_000_000)))
        self.port = self.socket.getsockname()[1]

    def read(self) -> bytes:
        """Return what there is, at most 1 KB."""
        self.socket.settimeout(0.01)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return self.socket.recv(1024)
        return b""


def waiting_to_be_read(port: int) -> set[int]:
    """Return the ports of the clients for whom the server at this port has bytes that can't be sent."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if int(local.partition(":")[2], 16) == port and int(queues.partition(":")[0], 16):
            found.add(int(remote.partition(":")[2], 16))
    return found


def outcomes(gateway: Gateway) -> dict[str, float]:
    """Return the number of inference requests by outcome, of those that there were."""
    found: dict[str, float] = {}
    for line in gateway.get("/metrics").text.splitlines():
        if line.startswith("gateway_request_duration_seconds_count"):
            outcome = line.partition('outcome="')[2].partition('"')[0]
            found[outcome] = found.get(outcome, 0) + float(line.rpartition(" ")[2])
    # Some are shown before there is one.
    return {outcome: count for outcome, count in found.items() if count}


def value(gateway: Gateway, metric: str) -> float:
    (line,) = [line for line in gateway.get("/metrics").text.splitlines() if line.startswith(f"{metric} ")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("count", [25, pytest.param(100, marks=pytest.mark.soak)])
def test_clients_that_do_not_read_harm_nobody(large: Callable[..., Gateway], count: int) -> None:
    gateway = large(GATEWAY_REQUEST_TIMEOUT_S="12")
    with Others(gateway) as others:
        eventually(lambda: len(others.times_s) >= 60, "the others are answered", 60)
    alone_s, memory = statistics.median(others.times_s), gateway.memory_bytes
    assert others.wrong == []

    with Others(gateway) as others, ExitStack() as sockets:
        readers = [SlowReader(gateway, float(number)) for number in range(count)]
        for reader in readers:
            sockets.enter_context(contextlib.closing(reader.socket))
        ports = {reader.port for reader in readers}
        eventually(lambda: ports <= waiting_to_be_read(gateway.port), "every reader is stalled", 60)
        stalled_at = len(others.times_s)
        assert value(gateway, "gateway_requests_in_flight") >= count
        most, deadline = 0, time.monotonic() + 90
        while sum(outcomes(gateway).values()) - outcomes(gateway).get("ok", 0) < count:
            for number, reader in enumerate(readers):
                got = reader.read()
                # After the head nothing but the reader's own number comes.
                assert len(got) < 500 or struct.pack("<f", number) in got or b"HTTP/1.1 200" in got
            most = max(most, gateway.memory_bytes)
            assert time.monotonic() < deadline, outcomes(gateway)
        beside_s = statistics.median(others.times_s[stalled_at:])
    assert others.wrong == []
    found = outcomes(gateway)
    print(
        f"median {1000 * alone_s:.1f} ms alone, {1000 * beside_s:.1f} ms beside; {most - memory >> 20} MiB more; {found}"
    )
    assert set(found) == {"ok", "gone"}, "no failure of the version"
    assert found["gone"] == count
    eventually(lambda: value(gateway, "gateway_requests_in_flight") == 0)
    assert most - memory < 200 * MIB
    assert beside_s < 3 * alone_s


def send_until_refused(gateway: Gateway, head: bytes, piece: bytes, times: int) -> bytes:
    """Send a head that never ends; returns what the gateway says."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        with contextlib.suppress(ConnectionError, TimeoutError):
            client.sendall(head)
            for _ in range(times):
                client.sendall(piece)
        with contextlib.suppress(ConnectionError, TimeoutError):
            return client.recv(64)
    return b""


def test_heads_without_an_end_and_halves_of_heads_keep_nobody_out(large: Callable[..., Gateway]) -> None:
    gateway = large(GATEWAY_HEAD_TIMEOUT_S="4", GATEWAY_API_KEY="a key that these clients do not have")
    # The others are asked for a key as well: what is looked at is that they are answered at once.
    memory, slowest_s, answered = gateway.memory_bytes, 0.0, 0
    with ExitStack() as sockets:
        halves = [
            sockets.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=30))
            for _ in range(1000)
        ]
        for number, half in enumerate(halves):
            half.sendall((b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET /health", b"", b"\r\n")[number % 4])
        for _ in range(50):
            began = time.monotonic()
            answered += gateway.get("/health/live").ok
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert gateway.memory_bytes - memory < 200 * MIB
        said = []
        for half in halves:
            with contextlib.suppress(ConnectionError):
                said.append(half.recv(12))
    assert answered == 50
    assert slowest_s < 2
    # Of a thousand connections, a few made room for those that had a request.
    assert said.count(b"HTTP/1.1 408") > 900
    assert not [text for text in said if text not in (b"HTTP/1.1 408", b"")]

    senders = [
        (431, b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 170_000),
        (431, b"GET / HTTP/1.1\r\nA: ", b"b" * MIB),
        (431, b"", b"\r\n" * (MIB // 2)),
        (414, b"GET /", b"a" * MIB),
    ]
    statuses: list[tuple[int, bytes]] = []

    def send(expected: int, head: bytes, piece: bytes) -> None:
        statuses.append((expected, send_until_refused(gateway, head, piece, 64)))

    threads = [threading.Thread(target=send, args=sender) for sender in senders * 4]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, gateway.memory_bytes)
        assert gateway.get("/health/live").ok
    assert most - memory < 200 * MIB
    for expected, text in statuses:
        assert text.startswith(b"HTTP/1.1 %d " % expected) or text == b"", "cut off, or told why"
    assert sum(text != b"" for _, text in statuses) >= len(senders)
