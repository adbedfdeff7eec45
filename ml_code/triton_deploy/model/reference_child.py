"""The process that runs a model: ``python -m ml_code.triton_deploy.model.reference_child LIMITS``.

The process limits itself before it sees the model, and imports only the frames of this package. It reads
requests from its standard input, one at a time, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .reference_frames import Array, Frame, Reader, TooLarge, packed

ERROR_CHARACTERS = 2000
"""Most characters of an error that are passed on."""
QUICK_S = 0.001
"""A measured run that is quicker than this is repeated, seconds."""

_PR_SET_PDEATHSIG = 1
_ANY_SIZE = 1 << 62
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory", "bad allocation")


def main(limits: Mapping[str, Any]) -> None:
    """Answer requests until the standard input ends.

    Args:
        limits: ``parent`` (the parent's process id), ``memory_bytes``, ``cpu_s``, ``output_bytes``.
    """
    _end_with(limits["parent"])
    requests, answers = _pipes()
    _limit(limits)
    import onnxruntime

    _say(answers, packed({"ready": True}, {}))
    model = _Model(onnxruntime)
    while (request := _next(requests)) is not None:
        _say(answers, _answer(model, request, limits["output_bytes"]))


class _Model:
    """An ONNX Runtime session. A request names the method to call."""

    def __init__(self, onnxruntime: Any) -> None:
        self._onnxruntime = onnxruntime
        self._session: Any = None
        self._held: dict[str, Array] = {}

    def load(self, request: Frame) -> dict[str, Array]:
        """Load the file ``file``, with ``threads`` threads."""
        self._session = self._opened(request.head["file"], self._options(request))
        return {}

    def sign(self, request: Frame) -> dict[str, Any]:
        """Open the array ``outline``, with its large tensors in ``folder``; return the inputs and outputs.

        The basic optimizations fold constants, and thereby infer shapes that the file leaves open; the
        others change no shape.
        """
        options = self._options(request)
        options.graph_optimization_level = self._onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        # Packed weights are copies of weights, and nothing is computed here.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", request.head["folder"]
        )
        session = self._opened(request.arrays["outline"].tobytes(), options)
        return {
            "runtime": self._onnxruntime.__version__,
            "inputs": _described(session.get_inputs()),
            "outputs": _described(session.get_outputs()),
        }

    def _options(self, request: Frame) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = request.head["threads"]
        options.inter_op_num_threads = 1
        return options

    def _opened(self, model: str | bytes, options: Any) -> Any:
        return self._onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, request: Frame) -> dict[str, Array]:
        """Return the outputs ``outputs`` for the inputs; none means all."""
        names = request.head["outputs"] or [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(request.arrays)), strict=True))

    def hold(self, request: Frame) -> dict[str, Array]:
        """Keep the inputs for ``measure``."""
        self._held = dict(request.arrays)
        return {}

    def measure(self, request: Frame) -> float:
        """Run the model on the held inputs, and return the time that it took, seconds."""
        took_s = self._timed()
        # The process has just been woken up, and its caches are cold. In a quick run that would be the
        # larger part of the time.
        return self._timed() if took_s < QUICK_S else took_s

    def _timed(self) -> float:
        started = time.perf_counter()
        self._session.run(None, self._held)
        return time.perf_counter() - started


def _described(nodes: Any) -> list[dict[str, Any]]:
    """Return names, types and shapes as JSON values; a dimension of any size is -1."""
    return [
        {
            "name": node.name,
            "type": node.type,
            "shape": [size if isinstance(size, int) else -1 for size in node.shape],
        }
        for node in nodes
    ]


def _answer(model: _Model, request: Frame, output_bytes: int) -> list[bytes]:
    ask: Callable[[Frame], Any] = getattr(model, request.head["ask"])
    try:
        answer = ask(request)
        if request.head["ask"] == "sign":
            return packed({"signature": answer}, {})
        if isinstance(answer, float):
            return packed({"seconds": answer}, {})
        return packed({}, answer, output_bytes)
    except TooLarge as error:
        return packed({"too_large": error.size_bytes}, {})
    except Exception as error:  # Exception is the only common base class of ONNX Runtime's exceptions.
        text = f"{error}" or type(error).__name__
        memory = isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY)
        return packed({"error": text[:ERROR_CHARACTERS], "memory": memory}, {})


def _next(requests: BinaryIO) -> Frame | None:
    reader = Reader(_ANY_SIZE)
    while missing := reader.missing_bytes:
        data = requests.read(missing)
        if not data:
            return None
        reader.feed(data)
    return reader.frame()


def _say(answers: BinaryIO, parts: list[bytes]) -> None:
    for part in parts:
        answers.write(part)
    answers.flush()


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes of requests and answers. Output that a library prints goes to the standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return sys.stdin.buffer, os.fdopen(answers, "wb")


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone.

    The process can't watch a pipe instead: a model that computes for ever may never let it. On systems
    other than Linux the limit of processor time ends it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # If the parent died before that call, the kernel sends no signal.
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def _limit(limits: Mapping[str, Any]) -> None:
    # When memory runs out, the kernel is to kill this process and not the deployer.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        # The parent's deadline comes first; this limit counts when the parent is stopped.
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 5),
        (resource.RLIMIT_CORE, 0, 0),
        # A model has no need to write a file, and a pipe does not count as one.
        (resource.RLIMIT_FSIZE, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        resource.setrlimit(
            kind, (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
