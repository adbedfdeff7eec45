"""Models are run in a process of their own, with limits of time, memory and size of the answer: the deployer runs none itself.

A model is a program from somebody else. It may compute for ever, ask for all memory, or crash ONNX Runtime; then its process is
killed or has ended, and whoever asked says what was the matter and goes on. ``reference_child`` is that process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from ..errors import Unavailable
from ..rules.machine_faults import machine_fault, not_imported
from ..settings import Settings
from .reference_frames import Array, Frame, Reader, TooLarge, packed

START_TIMEOUT_S = 60.0
"""Longest wait for the process to be ready, before it sees the model: its imports take less than a second on an idle machine."""
OUTPUT_BYTES = 64 << 20
"""Most bytes in one answer. It becomes JSON in the deployer, of several times the size."""
STDERR_BYTES = 2000
"""So much of what the process wrote last is told."""
MOST_THREADS = 4
"""Each thread takes address space, and a node may have a hundred cores."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CHUNK_BYTES = 1 << 20
_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a model may take.

    Attributes:
        timeout_s: time for which it is waited for, over all that it is asked, seconds.
        memory_bytes: address space of its process, ONNX Runtime included.
        output_bytes: size of one answer.
        timeout_variable: the setting that ``timeout_s`` comes from, for messages.
    """

    timeout_s: float = Settings.smoke.reference_timeout_s
    memory_bytes: int = Settings.smoke.reference_memory_bytes
    output_bytes: int = OUTPUT_BYTES
    timeout_variable: str = "TRITON_DEPLOY_REFERENCE_TIMEOUT_S"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the deployer's limits."""
        return cls(
            timeout_s=settings.smoke.reference_timeout_s, memory_bytes=settings.smoke.reference_memory_bytes
        )


class ModelFailed(Exception):
    """The model failed, or went over a limit.

    Args:
        what: what happened, without a full stop at its end.
        remedy: which setting to raise, as a sentence, or an empty text.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def advice(self, first: str) -> str:
        """Return what to do: a sentence, and the remedy after it."""
        return f"{first} {self.remedy}".rstrip()


class _Late(Exception):
    """The deadline has passed. No TimeoutError: a signal handler that raises that stops the deployer, and the model is not to blame."""


class ModelProcess:
    """A model in a process of its own, which ends with this object's ``with`` block, or when this process does.

    The process leads a group of its own: a Ctrl-C of the terminal reaches only the one that waits here, and what it raises, as a
    signal handler's exception does, ends the block. It has no variables of this process but those for finding programs and libraries,
    so no credentials, and its working directory is ``/``. On Linux the kernel kills it when the *thread* that started it ends.

    Args:
        model_file: the ``model.onnx``, external data beside it.
        limits: what it may take.
        threads: threads for one request; by default as many as there are cores, at most 4.

    Raises:
        ModelFailed: ONNX Runtime can't load it within its limits.
        Misconfigured: ONNX Runtime can't be imported here.
        Unavailable: the process can't be started, or somebody else ended it; or this machine is at fault (locale, library, open files).
    """

    def __init__(self, model_file: Path, limits: Limits, threads: int = 0) -> None:
        self._limits = limits
        self._left_s = limits.timeout_s
        self._threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._stderr = b""
        self._process = self._start()
        try:
            self._wait_until_ready()
            self._ask("load", file=str(model_file.absolute()), threads=self._threads)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Return the answers to some inputs.

        Args:
            inputs: arrays by input name.
            outputs: names of the wanted outputs; none means all, in the model's order.

        Raises:
            ModelFailed: the model fails on them, or went over a limit.
            Unavailable: somebody else ended the process.
        """
        answers = dict(self._ask("run", inputs, outputs=list(outputs)).arrays)
        if outputs and list(answers) != list(outputs):
            raise _nonsense("other outputs than were asked for")
        return answers

    def hold(self, inputs: Mapping[str, Array]) -> None:
        """Keep inputs in the process, for ``measure``. The time limit begins anew, as with each measurement.

        Raises:
            ModelFailed, Unavailable: as for ``run``.
        """
        self._left_s = self._limits.timeout_s
        self._ask("hold", inputs)

    def measure(self) -> float:
        """Answer what is held with all outputs, forget the answer, and return how long that took in the process, seconds.

        Raises:
            ModelFailed, Unavailable: as for ``run``.
        """
        self._left_s = self._limits.timeout_s
        seconds = self._ask("measure").head.get("seconds")
        if not isinstance(seconds, float):
            raise _nonsense("no time")
        return seconds

    def close(self) -> None:
        """Kill the process and all of its group. Safe to repeat."""
        self._kill()
        for pipe in (self._stdin, self._stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _kill(self) -> None:
        """End the group; a process that has ended keeps its exit code until it is asked for here."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _ends_by_itself(self) -> bool:
        """Whether the process, which has closed its pipe, has ended or does so at once; it is not reaped."""
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            time.sleep(0.01)
        return False

    @property
    def pid(self) -> int:
        """Process id, which is its group's too."""
        return self._process.pid

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _start(self) -> subprocess.Popen[bytes]:
        limits = {
            "parent": os.getpid(),
            "memory_bytes": self._limits.memory_bytes,
            # Twice, because the time limit begins anew for what is measured.
            "cpu_s": math.ceil(START_TIMEOUT_S + 2 * self._limits.timeout_s) * self._threads,
            "output_bytes": self._limits.output_bytes,
        }
        try:
            process = subprocess.Popen(
                # -P: the working directory is no place of modules.
                [sys.executable, "-P", "-B", "-m", f"{__package__}.reference_child", json.dumps(limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(
                f"No process can be started to run the model in: {error}.",
                hint="This machine is short of memory or processes, or its Python is gone; nothing is held against the model. Try again.",
            ) from error
        for pipe in (process.stdin, process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        return process

    def _wait_until_ready(self) -> None:
        """Wait until the process has imported what it needs; what fails before is no fault of the model."""
        try:
            self._exchange([], START_TIMEOUT_S)
        except (ModelFailed, _Late) as failed:
            missing = not_imported(_plain(self._stderr.decode(errors="replace")))
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
        except _Late as error:
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
        error = _plain(head["error"])
        if not head.get("memory"):
            raise machine_fault(error) or ModelFailed(error)
        raise ModelFailed(
            f"it needs more memory than the {self._limits.memory_bytes} bytes that it may take: {error}",
            "Or raise TRITON_DEPLOY_REFERENCE_MEMORY_BYTES.",
        )

    def _exchange(self, parts: Sequence[bytes], timeout_s: float) -> Frame:
        """Send a frame and return the one that comes back; raises _Late when none does in time."""
        reader = Reader(self._limits.output_bytes)
        try:
            for _ in self._pumped(parts, reader, time.monotonic() + timeout_s):
                if not reader.missing_bytes:
                    return reader.frame()
        except TooLarge as error:
            raise self._too_large(error.size_bytes) from error
        except ValueError as error:
            raise _nonsense(str(error)) from error
        raise self._ended()

    def _pumped(self, parts: Sequence[bytes], reader: Reader, deadline: float) -> Iterator[None]:
        """Move bytes between both processes; come up after each part of the answer, and end with it."""
        waiting = [memoryview(part) for part in parts if part]
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if self._process.stderr is not None and not self._process.stderr.closed:
                selector.register(self._process.stderr, selectors.EVENT_READ)
            if waiting:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            while True:
                left_s = deadline - time.monotonic()
                # Python comes back to its signal handlers here: an Airflow time limit gets through.
                ready = {key.fileobj for key, _ in selector.select(left_s)} if left_s > 0 else set()
                if not ready:
                    raise _Late
                if self._stdin in ready and not self._write(waiting):
                    selector.unregister(self._stdin)
                if self._process.stderr in ready and not self._note_stderr():
                    selector.unregister(self._process.stderr)
                if self._stdout in ready:
                    data = os.read(self._stdout.fileno(), min(reader.missing_bytes, _CHUNK_BYTES))
                    if not data:
                        return
                    reader.feed(data)
                    yield

    def _write(self, waiting: list[memoryview]) -> bool:
        """Write as much as goes; False when nothing is left, or nobody reads any more."""
        try:
            count = os.write(self._stdin.fileno(), waiting[0][:_CHUNK_BYTES])
        except BrokenPipeError:
            return False
        waiting[0] = waiting[0][count:]
        if not waiting[0]:
            waiting.pop(0)
        return bool(waiting)

    def _note_stderr(self) -> bool:
        """Keep the end of what the process writes; False when there is nothing more to read."""
        assert self._process.stderr is not None
        try:
            data = os.read(self._process.stderr.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._stderr = (self._stderr + data)[-STDERR_BYTES:]
        return bool(data)

    def _too_large(self, size_bytes: int) -> ModelFailed:
        return ModelFailed(
            f"it answers with {size_bytes} bytes, more than the {self._limits.output_bytes} that are taken"
        )

    def _ended(self) -> ModelFailed:
        """Return why the process has closed its pipe, or raise that it was not the model."""
        ended = self._ends_by_itself()
        self._kill()
        # Once: a pipe holds less than one read takes.
        self._note_stderr()
        last = _plain(self._stderr.decode(errors="replace"))
        said = f"; it wrote last: {last}" if last else ""
        if not ended:
            return ModelFailed(f"its process answers no more{said}")
        code = self._process.returncode
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


def _environment() -> dict[str, str]:
    """Return the variables of the process: none that may hold a secret."""
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        # What this process would import, in the same order, wherever that is installed.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path),
        # Address space that would be set aside for each core counts.
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
        # Else it writes a database into the home directory and sends it to its makers.
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _nonsense(what: str) -> ModelFailed:
    return ModelFailed(f"its process answers nonsense ({_plain(what)})")


def _plain(text: object) -> str:
    """Return a text of the process in one line, without what would steer a terminal or forge a line of a log."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 2 * STDERR_BYTES]).split())
