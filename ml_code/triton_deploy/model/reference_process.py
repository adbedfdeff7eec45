"""The parent's end of a process of ``reference_child``: start it, exchange frames over pipes, and kill it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, cast

from ..errors import Unavailable
from .reference_frames import Frame, Reader

STDERR_BYTES = 2000
"""Most bytes that are kept of the end of the process's standard error."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_CHUNK_BYTES = 1 << 20
_GRACE_S = 5.0


class Late(Exception):
    """No answer came in time.

    It is no TimeoutError: a signal handler may raise that one to stop the deployer, and then the model is
    not to blame.
    """


class ChildProcess:
    """A process of ``reference_child``, which leads a process group of its own.

    Args:
        limits: limits that the process sets for itself, see ``reference_child.main``. It takes no larger
            answer than ``output_bytes``.

    Raises:
        Unavailable: the process can't be started.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._output_bytes = limits["output_bytes"]
        self._process = _started(limits)
        # None of the three is None: Popen was called with PIPE.
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)
        self._stderr = cast(IO[bytes], self._process.stderr)
        for pipe in (self._stdin, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        self._last_output = b""

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._process.pid

    @property
    def last_output(self) -> str:
        """The end of the process's standard error, in one line."""
        return plain(self._last_output.decode(errors="replace"))

    def exchange(self, parts: Sequence[bytes], timeout_s: float) -> Frame:
        """Send a frame and return the frame that answers it.

        Args:
            parts: the frame's bytes; none only waits for a frame.
            timeout_s: time limit for both, seconds.

        Raises:
            Late: no whole frame came in time.
            TooLarge: the answer has more bytes than the limit.
            EOFError: the process has closed its pipe.
            ValueError: the bytes of the answer are no frame.
        """
        reader = Reader(self._output_bytes)
        for _ in self._pumped(parts, reader, time.monotonic() + timeout_s):
            if not reader.missing_bytes:
                return reader.frame()
        raise EOFError("the process has closed its pipe")

    def finish(self) -> int | None:
        """Kill the process, which has closed its pipe, and note its last output.

        Returns:
            The exit code when the process ended by itself; None when it had to be killed.
        """
        ended = self._ends_by_itself()
        self.kill()
        # Once is enough: a pipe holds less than one read takes.
        self._note_stderr()
        return self._process.returncode if ended else None

    def kill(self) -> None:
        """Kill the process and its group; a process that has ended keeps its exit code until this call."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Kill the process and its group, and close the pipes. Safe to repeat."""
        self.kill()
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def _ends_by_itself(self) -> bool:
        """Whether the process has ended, or ends within a moment. It is not reaped."""
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            time.sleep(0.01)
        return False

    def _pumped(self, parts: Sequence[bytes], reader: Reader, deadline: float) -> Iterator[None]:
        """Move bytes between both processes; yield after each part of the answer, and end with the pipe."""
        waiting = [memoryview(part) for part in parts if part]
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            selector.register(self._stderr, selectors.EVENT_READ)
            if waiting:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            while True:
                left_s = deadline - time.monotonic()
                # Python runs its signal handlers here, so an Airflow time limit gets through.
                ready = {key.fileobj for key, _ in selector.select(left_s)} if left_s > 0 else set()
                if not ready:
                    raise Late
                if self._stdin in ready and not self._write(waiting):
                    selector.unregister(self._stdin)
                if self._stderr in ready and not self._note_stderr():
                    selector.unregister(self._stderr)
                if self._stdout in ready:
                    data = os.read(self._stdout.fileno(), min(reader.missing_bytes, _CHUNK_BYTES))
                    if not data:
                        return
                    reader.feed(data)
                    yield

    def _write(self, waiting: list[memoryview]) -> bool:
        """Write as much as the pipe takes; False when nothing is left, or the process reads no more."""
        try:
            count = os.write(self._stdin.fileno(), waiting[0][:_CHUNK_BYTES])
        except BrokenPipeError:
            return False
        waiting[0] = waiting[0][count:]
        if not waiting[0]:
            waiting.pop(0)
        return bool(waiting)

    def _note_stderr(self) -> bool:
        """Keep the end of the process's standard error; False when there is nothing more to read."""
        try:
            data = os.read(self._stderr.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._last_output = (self._last_output + data)[-STDERR_BYTES:]
        return bool(data)


def plain(text: object) -> str:
    """Return a text of the process in one line, without characters that steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 2 * STDERR_BYTES]).split())


def _started(limits: Mapping[str, int]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            # -P: modules are not looked for in the working directory.
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


def _environment() -> dict[str, str]:
    """Return the variables of the process: none that may hold a secret."""
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        # The same modules as in this process, in the same order, wherever it is installed.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path),
        # Without it, address space is set aside for each core, and counts.
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
        # Without it, ONNX Runtime writes a database into the home directory and sends it to its makers.
        "ORT_DISABLE_TELEMETRY": "1",
    }
