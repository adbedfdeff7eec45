"""Clients that send a gateway requests at a fixed rate, and count those that were not answered in time."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.waiting import eventually

PER_SECOND = 50
LIMIT_S = 5.0
ASKED = 3.0
"""Not what a golden file asks: a model can tell clients from a smoke test."""


@dataclass(frozen=True)
class Failed:
    """A request that was not answered 200 by the live version within the limit.

    Attributes:
        at_s: when it was sent, seconds since the first.
        took_s: how long it took.
        why: what the client got.
    """

    at_s: float
    took_s: float
    why: str


class SteadyClients:
    """Asks for ``y = x * live`` while the block runs: 50 requests a second, a connection each, over all addresses in turn.

    Args:
        addresses: ``host:port`` of each gateway.
        model: public name.
        live: the version whose answers count; others are failures.
    """

    def __init__(self, addresses: Sequence[str], model: str, live: int) -> None:
        self._addresses, self._model, self._live = addresses, model, live
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # As many as can be under way before the first of them fails.
        self._pool = ThreadPoolExecutor(int(PER_SECOND * LIMIT_S * 2))
        self._ticking = threading.Thread(target=self._tick, daemon=True)
        self.requests = 0
        """Number of ended requests."""
        self.failed: list[Failed] = []

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._ticking.start()
        self.ask_more(PER_SECOND // 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ticking.join()
        # Every request that was sent is counted.
        self._pool.shutdown(wait=True)

    def ask_more(self, count: int) -> None:
        """Return when this many further requests have ended."""
        wanted = self.requests + count
        eventually(lambda: self.requests >= wanted, f"{count} more requests have ended", 60)

    def _tick(self) -> None:
        for number in itertools.count():
            due = self._began + number / PER_SECOND
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._pool.submit(self._ask_and_count, self._addresses[number % len(self._addresses)])

    def _ask_and_count(self, address: str) -> None:
        began = time.monotonic()
        why = self._ask(address)
        took_s = time.monotonic() - began
        if not why and took_s > LIMIT_S:
            why = "late"
        with self._lock:
            self.requests += 1
            if why:
                self.failed.append(Failed(round(began - self._began, 3), round(took_s, 3), why))

    def _ask(self, address: str) -> str:
        """Return why an answer does not count, or nothing."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [ASKED, ASKED]}
        connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
        try:
            connection.request("POST", f"/v2/models/{self._model}/infer", json.dumps({"inputs": [tensor]}))
            response = connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"{type(error).__name__} {error}"
        finally:
            connection.close()
        if response.status != 200:
            return f"{response.status} {content}"
        version, answers = int(content["model_version"]), {o["name"]: o["data"] for o in content["outputs"]}
        if (version, answers["y"][0]) != (self._live, ASKED * self._live):
            return f"version {version} answered {answers['y'][0]:g}, not version {self._live}"
        return ""
