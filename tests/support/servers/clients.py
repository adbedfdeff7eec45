"""A client that sends requests to the public name all the time, as a user does during a deploy."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

Answer = tuple[int, float]
"""Version that answered, and what it answered to 1: for ``models.times`` its factor."""


@dataclass(frozen=True)
class Seen:
    """The answers of a client over some time.

    Attributes:
        answers: one for each request that was answered, in order.
        failures: the error of each that was not.
        slowest_s: longest wait for an answer, seconds.
    """

    answers: tuple[Answer, ...]
    failures: tuple[str, ...]
    slowest_s: float

    @property
    def distinct(self) -> tuple[Answer, ...]:
        """The answers without immediate repetitions: ``((1, 1.0), (2, 2.0))`` after one switch."""
        return tuple(a for i, a in enumerate(self.answers) if i == 0 or a != self.answers[i - 1])


class Client:
    """Asks a model's public name in a thread of its own, until it is left.

    Args:
        url: gRPC address of Triton.
        model: public name of a ``models.times``.
        per_second: requests a second, one after the other.
        timeout_s: deadline of a request; one that passes it has failed.
    """

    def __init__(self, url: str, model: str, *, per_second: float = 100, timeout_s: float = 10) -> None:
        self._url, self._model = url, model
        self._pause_s, self._timeout_s = 1 / per_second, timeout_s
        self._answers: list[Answer] = []
        self._failures: list[str] = []
        self._slowest_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name=f"client of {model}", daemon=True)

    def __enter__(self) -> Self:
        """Start asking."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()

    def seen(self) -> Seen:
        """Its answers until now; waits for one more answer or failure, so that this moment is included."""
        known = len(self._answers) + len(self._failures)
        # Two more: the first of them may have been asked before.
        while len(self._answers) + len(self._failures) < known + 2:
            assert self._thread.is_alive(), "the client died"
            time.sleep(self._pause_s)
        return Seen(tuple(self._answers), tuple(self._failures), self._slowest_s)

    def _ask(self) -> None:
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
        with InferenceServerClient(self._url) as triton:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    result = triton.infer(self._model, [tensor], client_timeout=self._timeout_s)
                except InferenceServerException as error:
                    self._failures.append(str(error))
                else:
                    version = int(result.get_response().model_version)
                    self._answers.append((version, float(result.as_numpy("y")[0, 0])))
                spent = time.monotonic() - began
                self._slowest_s = max(self._slowest_s, spent)
                self._stop.wait(max(0.0, self._pause_s - spent))
