"""The process that runs a model for reference.ModelProcess: ``python -m ml_code.triton_deploy.model.reference_child LIMITS``.

It limits itself before it sees the model, and imports nothing of this package but the frames. It reads requests from its standard
input, one at a time, and ends with it.
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
"""So much is told of an error."""
QUICK_S = 0.001
"""An answer in less time is asked for once more when it is measured."""

_PR_SET_PDEATHSIG = 1
_ANY_SIZE = 1 << 62
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory", "bad allocation")


def main(limits: Mapping[str, Any]) -> None:
    """Answer requests until there are no more.

    Args:
        limits: ``parent`` (its process id), ``memory_bytes``, ``cpu_s``, ``output_bytes``.
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
    """An ONNX Runtime session, and what can be asked of it. Each method is a request by its name."""

    def __init__(self, onnxruntime: Any) -> None:
        self._onnxruntime = onnxruntime
        self._session: Any = None
        self._held: dict[str, Array] = {}

    def load(self, request: Frame) -> dict[str, Array]:
        """Load the file ``file``, with ``threads`` threads."""
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = request.head["threads"]
        options.inter_op_num_threads = 1
        self._session = self._onnxruntime.InferenceSession(
            request.head["file"], options, providers=["CPUExecutionProvider"]
        )
        return {}

    def run(self, request: Frame) -> dict[str, Array]:
        """Answer the inputs with ``outputs``; None is all of them."""
        names = request.head["outputs"] or [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(request.arrays)), strict=True))

    def hold(self, request: Frame) -> dict[str, Array]:
        """Keep the inputs, to be measured with."""
        self._held = dict(request.arrays)
        return {}

    def measure(self, request: Frame) -> float:
        """Answer the inputs that are held; return how long it took, seconds."""
        took_s = self._timed()
        # This process was woken up for it, and its caches are cold: of a quick answer that would be the larger part.
        return self._timed() if took_s < QUICK_S else took_s

    def _timed(self) -> float:
        started = time.perf_counter()
        self._session.run(None, self._held)
        return time.perf_counter() - started


def _answer(model: _Model, request: Frame, output_bytes: int) -> list[bytes]:
    ask: Callable[[Frame], Any] = getattr(model, request.head["ask"])
    try:
        answer = ask(request)
        if isinstance(answer, float):
            return packed({"seconds": answer}, {})
        return packed({}, answer, output_bytes)
    except TooLarge as error:
        return packed({"too_large": error.size_bytes}, {})
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
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
    """Return where requests come from and where answers go; what a library prints goes to the standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return sys.stdin.buffer, os.fdopen(answers, "wb")


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone.

    A look at a pipe would need this process to come to it, and a model that computes for ever may not let it. On other systems than
    Linux the limit of processor time ends it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A parent that died before that call sends no signal any more.
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def _limit(limits: Mapping[str, Any]) -> None:
    # When memory runs out, this process is the one to go, and not the deployer.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        # The parent's deadline comes first; this one is for when the parent is stopped.
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 5),
        (resource.RLIMIT_CORE, 0, 0),
        # A model is answered with, and writes no file; pipes are no files.
        (resource.RLIMIT_FSIZE, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        resource.setrlimit(
            kind, (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
