"""Clients that ask a model whatever it answers, and count."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import requests

from tests.support.waiting import eventually

ASKED_A_SECOND = 40
ONE_OF = 20
"""One request of this many has a number on which `models.fails_above` fails: 5 %."""


@dataclass
class Clients:
    """Clients that ask a model at a fixed rate and never give up, while the block runs.

    Args:
        addresses: where, in turn.
        model: its name.
        threads: largest number of requests at a time.
    """

    addresses: list[str]
    model: str
    threads: int = 4
    answers: Counter[int] = field(default_factory=Counter)
    failures: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._count = itertools.count(1)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more; returns when every answer is there."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def ask_more(self, count: int) -> None:
        """Return when this many further requests have ended."""
        wanted = self.answers.total() + self.failures + count
        eventually(lambda: self.answers.total() + self.failures >= wanted, "clients are answered", 120)

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.is_set():
                number = next(self._count)
                began = time.monotonic()
                self._ask(session, number)
                self._stop.wait(max(0.0, len(self._threads) / ASKED_A_SECOND - (time.monotonic() - began)))

    def _ask(self, session: requests.Session, number: int) -> None:
        value = 99.0 if number % ONE_OF == 0 else 1.0
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, value]}
        address = self.addresses[number % len(self.addresses)]
        response = session.post(
            f"http://{address}/v2/models/{self.model}/infer", json={"inputs": [tensor]}, timeout=60
        )
        with self._lock:
            if response.ok:
                self.answers[int(response.json()["model_version"])] += 1
            else:
                self.failures += 1


def asking(model: str, *addresses: str, threads: int = 4) -> Clients:
    """Clients of a model, once it is known at every address."""

    def known(address: str) -> bool:
        return requests.get(f"http://{address}/v2/models/{model}/ready", timeout=10).ok

    for address in addresses:
        eventually(lambda address=address: known(address), f"{address} knows {model}")  # type: ignore[misc]
    return Clients(list(addresses), model, threads)
