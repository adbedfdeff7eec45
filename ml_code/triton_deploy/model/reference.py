"""Models run in a process of their own, with limits of time, memory and size of the answer.

The deployer runs no model itself, because a model is a foreign program. It may compute for ever, ask for
all memory, or crash ONNX Runtime. Then its process is killed or has ended, and the caller gets the reason
and goes on. ``reference_child`` is that process, ``reference_process`` the parent's end of it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import Unavailable
from ..rules.machine_faults import machine_fault, not_imported
from .reference_frames import Array, Frame, TooLarge, packed
from .reference_limits import Limits, ModelFailed, ModelRefused
from .reference_process import ChildProcess, Late, plain

START_TIMEOUT_S = 60.0
"""Time limit for the process to be ready, before it sees the model, seconds.

On an idle machine its imports take less than one.
"""
MOST_THREADS = 4
"""Most threads of a process: each takes address space, and a node may have a hundred cores."""

_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ModelProcess:
    """A model in a process of its own, which ends with this object's ``with`` block, or with the deployer.

    The process leads a group of its own. So a Ctrl-C of the terminal reaches only the deployer, and the
    exception that this or another signal handler raises ends the block. The process gets only the
    variables for finding programs and libraries, so no credentials, and its working directory is ``/``.
    On Linux the kernel kills it when the *thread* that started it ends.

    Args:
        model_file: the ``model.onnx``, external data beside it.
        limits: limits of the model.
        threads: threads for one request; by default as many as there are cores, at most 4.
        outline: the model as ``linked_outline`` gives it, to read its signature alone; such a process runs
            nothing.
        mapped_bytes: address space for the files that the outline points at, beside ``memory_bytes``.

    Attributes:
        signature: with an outline, what the process says of the model's inputs and outputs; not checked yet.

    Raises:
        ModelFailed: ONNX Runtime can't load the model within its limits.
        Misconfigured: ONNX Runtime can't be imported here.
        Unavailable: the process can't be started, or another one ended it; or this machine is at fault
            (locale, library, open files).
    """

    def __init__(
        self,
        model_file: Path,
        limits: Limits,
        threads: int = 0,
        *,
        outline: bytes | None = None,
        mapped_bytes: int = 0,
    ) -> None:
        self.signature: Mapping[str, Any] = {}
        self._limits = limits
        self._left_s = limits.timeout_s
        threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._child = ChildProcess(
            {
                "parent": os.getpid(),
                "memory_bytes": limits.memory_bytes + mapped_bytes,
                # Twice, because the time limit begins anew for measurements.
                "cpu_s": math.ceil(START_TIMEOUT_S + 2 * limits.timeout_s) * threads,
                "output_bytes": limits.output_bytes,
            }
        )
        try:
            self._wait_until_ready()
            if outline is None:
                self._ask("load", file=str(model_file.absolute()), threads=threads)
            else:
                self.signature = self._sign(model_file, outline)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sign(self, model_file: Path, outline: bytes) -> Mapping[str, Any]:
        arrays = {"outline": np.frombuffer(outline, np.uint8)}
        said = self._ask("sign", arrays, folder=str(model_file.parent.absolute()), threads=1)
        signature = said.head.get("signature")
        if not isinstance(signature, dict):
            raise _nonsense("no signature")
        return signature

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Return the model's outputs for some inputs.

        Args:
            inputs: arrays by input name.
            outputs: names of the wanted outputs; none means all, in the model's order.

        Raises:
            ModelFailed: the model fails on the inputs, or went over a limit.
            Unavailable: another process ended the model's.
        """
        answers = dict(self._ask("run", inputs, outputs=list(outputs)).arrays)
        if outputs and list(answers) != list(outputs):
            raise _nonsense("other outputs than were asked for")
        return answers

    def hold(self, inputs: Mapping[str, Array]) -> None:
        """Keep inputs in the process, for ``measure``. The time limit begins anew, as for each measurement.

        Raises:
            ModelFailed, Unavailable: as for ``run``.
        """
        self._left_s = self._limits.timeout_s
        self._ask("hold", inputs)

    def measure(self) -> float:
        """Run the model once on the held inputs, with all outputs; return the time in the process, seconds.

        Raises:
            ModelFailed, Unavailable: as for ``run``.
        """
        self._left_s = self._limits.timeout_s
        seconds = self._ask("measure").head.get("seconds")
        if not isinstance(seconds, float):
            raise _nonsense("no time")
        return seconds

    def close(self) -> None:
        """Kill the process and its group. Safe to repeat."""
        self._child.close()

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._child.pid

    def _wait_until_ready(self) -> None:
        """Wait until the process has imported its modules; a failure until then is no fault of the model."""
        try:
            self._exchange([], START_TIMEOUT_S)
        except (ModelFailed, Late) as failed:
            missing = not_imported(self._child.last_output)
            if missing:
                raise missing from failed
            why = failed.what if isinstance(failed, ModelFailed) else f"not within {START_TIMEOUT_S:g} s"
            raise Unavailable(
                f"The process that runs the model did not come up: {why}.",
                hint="See whether this machine is short of memory or very busy; nothing is held against the model. Try again.",
            ) from failed

    def _ask(self, what: str, arrays: Mapping[str, Array] | None = None, **head: Any) -> Frame:
        started = time.monotonic()
        try:
            answer = self._exchange(packed({"ask": what, **head}, arrays or {}), self._left_s)
        except Late as error:
            raise ModelFailed(
                f"it had not ended after {self._limits.timeout_s:g} s, and was stopped",
                f"Or raise {self._limits.timeout_variable}.",
            ) from error
        finally:
            self._left_s = max(0.0, self._left_s - (time.monotonic() - started))
        self._check(answer.head)
        return answer

    def _check(self, head: Mapping[str, Any]) -> None:
        if "too_large" in head:
            size_bytes = head["too_large"]
            raise (
                self._too_large(size_bytes)
                if isinstance(size_bytes, int)
                else _nonsense("a size that is none")
            )
        if "error" not in head:
            return
        error = plain(head["error"])
        if not head.get("memory"):
            raise machine_fault(error) or ModelRefused(error)
        raise ModelFailed(
            f"it needs more memory than the {self._limits.memory_bytes} bytes that it may take: {error}",
            "Or raise TRITON_DEPLOY_REFERENCE_MEMORY_BYTES.",
        )

    def _exchange(self, parts: Sequence[bytes], timeout_s: float) -> Frame:
        """Send a frame and return its answer; raises Late when none comes in time."""
        try:
            return self._child.exchange(parts, timeout_s)
        except TooLarge as error:
            raise self._too_large(error.size_bytes) from error
        except EOFError:
            raise self._ended() from None
        except ValueError as error:
            raise _nonsense(str(error)) from error

    def _too_large(self, size_bytes: int) -> ModelFailed:
        return ModelFailed(
            f"it answers with {size_bytes} bytes, more than the {self._limits.output_bytes} that are taken"
        )

    def _ended(self) -> ModelFailed:
        """Return why the process has closed its pipe; raises Unavailable when the model is not the cause."""
        code, last = self._child.finish(), self._child.last_output
        said = f"; it wrote last: {last}" if last else ""
        if code is None:
            return ModelFailed(f"its process answers no more{said}")
        if code >= 0:
            return ModelFailed(f"its process ended with exit code {code}{said}")
        name = signal.Signals(-code).name
        if -code in _SENT_BY_OTHERS:
            raise Unavailable(
                f"The process that ran the model was ended by {name} from outside: by the kernel, when this machine runs out of memory, or by a person.",
                hint="Nothing is held against the model; try again. If that recurs, give this machine more memory than "
                f"TRITON_DEPLOY_REFERENCE_MEMORY_BYTES ({self._limits.memory_bytes}) or lower that, or log golden inputs (triton/golden.json).",
            )
        return ModelFailed(f"its process crashed with {name}{said}")


def _nonsense(what: str) -> ModelFailed:
    return ModelFailed(f"its process answers nonsense ({plain(what)})")
