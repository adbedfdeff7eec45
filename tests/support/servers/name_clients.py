"""Clients of a model's public name, in a process of their own, so that a deployer's work does not delay them.

Run as a script: ``python -m tests.support.servers.name_clients GRPC_URL MODEL`` asks until its standard
input ends, then prints what each client saw, as a JSON list. The model is a ``models.times`` whose factor
is its version.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

CLIENTS = 5
PER_SECOND = 200
TIMEOUT_S = 10.0


class Asking(threading.Thread):
    """One client, over one connection that it keeps, at its share of the rate."""

    def __init__(self, url: str, model: str, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._model, self._over = url, model, over
        self._spent: list[float] = []
        self._failures: list[str] = []
        self._versions: list[int] = []
        self._wrong: list[tuple[int, float]] = []
        self.began = threading.Event()

    def run(self) -> None:
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
        # A connection of its own: clients of one address would share theirs.
        arguments = [("grpc.use_local_subchannel_pool", 1)]
        with InferenceServerClient(self._url, channel_args=arguments) as triton:
            due = time.monotonic()
            while not self._over.is_set():
                started = time.perf_counter()
                try:
                    self._note(triton.infer(self._model, [tensor], client_timeout=TIMEOUT_S))
                except InferenceServerException as error:
                    self._failures.append(str(error))
                self._spent.append(time.perf_counter() - started)
                self.began.set()
                # By the clock, so that a slow answer does not lower the rate.
                due += CLIENTS / PER_SECOND
                self._over.wait(max(0.0, due - time.monotonic()))

    def seen(self) -> dict[str, Any]:
        """Return what it saw, for JSON: ``versions`` without immediate repetitions, ``wrong`` answers that were another's."""
        spent = sorted(self._spent)
        return {
            "answers": len(spent) - len(self._failures),
            "failures": self._failures,
            "versions": self._versions,
            "wrong": self._wrong,
            "slowest_s": spent[-1],
            "p99_9_ms": round(1000 * spent[int(len(spent) * 0.999)], 1),
        }

    def _note(self, result: Any) -> None:
        version = int(result.get_response().model_version)
        factor = float(result.as_numpy("y")[0, 0])
        if factor != version:
            self._wrong.append((version, factor))
        if self._versions[-1:] != [version]:
            self._versions.append(version)


def main(url: str, model: str) -> None:
    over = threading.Event()
    clients = [Asking(url, model, over) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.began.wait()
    print("asking", flush=True)
    sys.stdin.read()
    over.set()
    for client in clients:
        client.join()
    print(json.dumps([client.seen() for client in clients]))


if __name__ == "__main__":
    main(*sys.argv[1:])
