"""Clients in processes of their own, which send requests at a steady rate and record the answers."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """One request.

    Attributes:
        asked_s: time at which the request was due, ``time.perf_counter``, the same clock in every process
            of a machine. A client that waits for an answer sends the next request late. That delay counts,
            because a user would have had it.
        answered_s: time of the answer or the failure.
        version: the version that answered; 0 if the request failed.
    """

    asked_s: float
    answered_s: float
    version: int


Asked = list[Sequence[Answer]]
"""The answers of each client."""


class Clients:
    """Several clients, each in a process of its own; all send requests to the same model at a time.

    Args:
        url: ``host:port`` of Triton's gRPC endpoint.
        inputs: tensors by name, which every such model accepts.
        number: number of clients.
        per_second: requests a second of each client.
    """

    def __init__(self, url: str, inputs: Mapping[str, Any], number: int, per_second: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Any] = []
        self._processes = []
        for _ in range(number):
            ours, theirs = context.Pipe()
            arguments = (url, dict(inputs), 1 / per_second, theirs)
            self._pipes.append(ours)
            self._processes.append(context.Process(target=_ask, args=arguments, daemon=True))

    def __enter__(self) -> Self:
        """Start the processes; they send no request yet."""
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if error is None:
                pipe.send(None)
            else:
                # The client may be in the middle of its requests, and not read the pipe.
                process.terminate()
            process.join(timeout=30)

    @contextlib.contextmanager
    def asking(self, model: str) -> Iterator[Asked]:
        """Send requests to a model while the block runs; every client had an answer before the block begins.

        Yields:
            The answers of each client, filled in after the block.
        """
        asked: Asked = []
        self._tell(model)
        yield asked
        for answers in self._tell("stop"):
            asked.append([Answer(*one) for one in answers])

    def _tell(self, word: str) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(word)
        return [pipe.recv() for pipe in self._pipes]


def _ask(url: str, inputs: dict[str, Any], pause_s: float, pipe: Any) -> None:
    """Serve one end of a client's pipe.

    Read a model from ``pipe``, send it requests until the next message, send the answers back, and repeat;
    None ends it.
    """
    from tritonclient.grpc import InferenceServerClient, InferInput
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype

    tensors = []
    for name, array in inputs.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    with contextlib.closing(InferenceServerClient(url)) as triton:
        while model := pipe.recv():
            triton.infer(model, tensors)
            pipe.send("asking")
            answers: list[tuple[float, float, int]] = []
            due_s = time.perf_counter()
            while not pipe.poll():
                time.sleep(max(0.0, due_s - time.perf_counter()))
                try:
                    answer = triton.infer(model, tensors, client_timeout=10)
                    version = int(answer.get_response().model_version)
                except InferenceServerException:
                    version = 0
                answers.append((due_s, time.perf_counter(), version))
                due_s += pause_s
            pipe.recv()
            pipe.send(answers)
