"""Clients of many names that a bake tells apart, and clients that do a release harm: stalled readers, a flood, large batches."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import requests

from tests.support.waiting import eventually

Rows = list[list[float]]


def one_row(number: int) -> Rows:
    """The request of a harmless client."""
    return [[1.0, 1.0]]


class _InThreads:
    """Runs ``_threads`` until it is left; each looks at ``_stop``."""

    _threads: Sequence[threading.Thread]
    _stop: threading.Event

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)


class ManyClients(_InThreads):
    """Clients with a name each, that ask one after the other while the block runs.

    Args:
        address: ``host:port`` of the gateway.
        model: its name.
        names: how many clients there are.
        per_second: requests a second, all together.
        rows: what the request of a number asks.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        names: int = 8,
        per_second: float = 40,
        rows: Callable[[int], Rows] = one_row,
    ) -> None:
        self._address, self._model, self.rows = address, model, rows
        self._names, self._pause_s = names, names / per_second
        self._count, self._lock, self._stop = itertools.count(1), threading.Lock(), threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"client-{number}",), daemon=True)
            for number in range(names)
        ]
        self.answers: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        print(f"answers by version: {dict(self.answers)}, failures by status: {dict(self.failures)}")

    def ask_for(self, seconds: float) -> None:
        """Go on for this time."""
        time.sleep(seconds)

    def wait_for(self, version: int, count: int) -> None:
        """Return when a version has given this many answers."""
        eventually(lambda: self.answers[version] >= count, f"version {version} answers", 120)

    def _run(self, name: str) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.is_set():
                began = time.monotonic()
                self._ask(session, name)
                self._stop.wait(max(0.0, self._pause_s - (time.monotonic() - began)))

    def _ask(self, session: requests.Session, name: str) -> None:
        with self._lock:
            number = next(self._count)
        rows = self.rows(number)
        tensor = {
            "name": "x",
            "datatype": "FP32",
            "shape": [len(rows), len(rows[0])],
            "data": [value for row in rows for value in row],
        }
        try:
            response = session.post(
                f"http://{self._address}/v2/models/{self._model}/infer",
                json={"inputs": [tensor]},
                headers={"X-Canary-Key": name},
                timeout=60,
            )
        except requests.RequestException:
            with self._lock:
                self.failures[0] += 1
            return
        with self._lock:
            if response.ok:
                self.answers[int(response.json()["model_version"])] += 1
            else:
                self.failures[response.status_code] += 1


class StalledReaders(_InThreads):
    """Clients that ask for a large answer and never read it, again and again while the block runs.

    Args:
        address: ``host:port`` of the gateway.
        model: its name.
        count: how many at once.
        rows: of the answer, two numbers each.
        give_up_s: after so long each begins anew.
    """

    def __init__(
        self, address: str, model: str, *, count: int, rows: int = 500_000, give_up_s: float = 8.0
    ) -> None:
        host, _, port = address.partition(":")
        self._place = host, int(port)
        self._request = _binary_request(address, model, rows)
        self._give_up_s, self._stop = give_up_s, threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def _run(self) -> None:
        while not self._stop.is_set():
            with socket.socket() as connection:
                # Before the connection is made: it says how much the other side may send unread.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(self._give_up_s)
                try:
                    connection.connect(self._place)
                    connection.sendall(self._request)
                except OSError:
                    continue
                self._stop.wait(self._give_up_s)


def _binary_request(address: str, model: str, rows: int) -> bytes:
    size = rows * 2 * 4
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": size}}
    head = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    ).encode()
    body = head + struct.pack("<f", 1.0) * (rows * 2)
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {address}",
        "X-Canary-Key: stalled",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(body)}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


class Flood(_InThreads):
    """Clients that all ask about many rows at the same moment, once a second, while the block runs: more than the gateway has room for.

    Args:
        address: ``host:port`` of the gateway.
        model: its name.
        at_once: how many.
        rows: of each request.
    """

    def __init__(self, address: str, model: str, *, at_once: int, rows: int = 2000) -> None:
        self._waves = [
            ManyClients(address, model, names=1, per_second=1.0, rows=self._rows_together)
            for _ in range(at_once)
        ]
        self._together, self._rows = threading.Barrier(at_once), [[1.0, 1.0]] * rows

    def _rows_together(self, number: int) -> Rows:
        # Broken at the end of the block.
        with contextlib.suppress(threading.BrokenBarrierError):
            self._together.wait()
        return self._rows

    def __enter__(self) -> Self:
        for wave in self._waves:
            wave.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._together.abort()
        for wave in self._waves:
            wave.__exit__(kind, error, trace)


def every(number: int, rows: Rows) -> Callable[[int], Rows]:
    """Return what makes one of so many requests ask these rows; see ``ManyClients.rows``."""

    def chosen(asked: int) -> Rows:
        return rows if asked % number == 0 else one_row(asked)

    return chosen
