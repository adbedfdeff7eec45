"""A process that has imported the library and forks a child for each command, which it measures.

Run as ``python -m tests.support.faults.hostile_child``: requests come in on stdin and answers go out on
stdout, a JSON object a line. A command is the real one, with its arguments, environment and exit code; only
Triton is a fake, on the files of a real repository.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import botocore.session
import onnx
import onnxruntime
import requests
import tritonclient.grpc
import urllib3

from ml_code.triton_deploy import cli, doctor
from ml_code.triton_deploy.clients import artifacts
from ml_code.triton_deploy.deploy import collaborators
from ml_code.triton_deploy.doctor import staging as doctor_staging
from ml_code.triton_deploy.doctor import triton as doctor_triton
from ml_code.triton_deploy.upkeep import reconcile, status
from tests.support.fakes import FakeTriton, ones
from tests.support.faults.served_by_fork import start
from tests.support.world import MODEL

IMPORTED = (onnx, onnxruntime, requests, tritonclient.grpc, urllib3, artifacts, doctor)
"""Modules that the library imports lazily."""
MIB = 1 << 20
ROOM_BYTES = 2 << 30
"""Memory limit of a child: the test shares the machine."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The task of a child.

    Attributes:
        argv: arguments of ``triton-deploy``.
        environment: its variables, all of them.
        repository: the model repository; a Triton serves what it says is live.
        folder: where ``stdout``, ``stderr`` and ``records`` are written: what every logger said, at every
            level.
        limit_s: seconds from its start after which it is killed.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    repository: str
    folder: str
    limit_s: float


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The outcome of a child.

    Attributes:
        code: the exit code; -9 when it was killed.
        took_s: from its start to its end.
        grew_mib: the most memory that it had, above what it had at its start.
        serves: the version that Triton answers with afterwards, and its answer to 1; or why there is none.
    """

    code: int
    took_s: float
    grew_mib: float = 0.0
    serves: tuple[Any, ...] = ()


class Commands:
    """The client's side: starts the process, ends it with the block. Several commands may run at a time, from several threads.

    Args:
        log: where the process says why it died, if it does.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waited_for: dict[int, Future[Ran]] = {}

    def __enter__(self) -> Self:
        self._process = start("tests.support.faults.hostile_child", self._log)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(60)
        self._reader.join(60)

    def run(self, job: Job) -> Ran:
        """Have a child do a job."""
        assert self._process.stdin is not None
        future: Future[Ran] = Future()
        with self._lock, contextlib.suppress(BrokenPipeError):
            number = next(self._numbers)
            self._waited_for[number] = future
            print(json.dumps([number, asdict(job)]), file=self._process.stdin, flush=True)
        if self._process.poll() is not None:
            raise AssertionError(f"it died: {self._log.read_text()}")
        return future.result(job.limit_s + 60)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, said = json.loads(line)
            self._waited_for.pop(number).set_result(Ran(**{**said, "serves": tuple(said["serves"])}))
        for future in self._waited_for.values():
            future.set_exception(AssertionError(f"it died: {self._log.read_text()}"))


def main() -> None:
    # What boto reads at its first client is the same for all: it is a part of what a child has at its start.
    botocore.session.Session().create_client(
        "s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    for line in sys.stdin:
        number, job = json.loads(line)
        for done in [waiting for waiting in WAITING if os.waitpid(waiting, os.WNOHANG)[0]]:
            WAITING.remove(done)
        if (waiting := os.fork()) == 0:
            # One process waits for each command, so that this one, which forks, has no clock. It ends
            # without the exit handlers of ONNX Runtime, which wait for a thread that a fork does not have.
            with contextlib.suppress(BrokenPipeError):
                os.write(1, f"{json.dumps([number, asdict(_forked(Job(**job)))])}\n".encode())
            os._exit(0)
        WAITING.append(waiting)


WAITING: list[int] = []
"""Processes that wait for a command."""


def _forked(job: Job) -> Ran:
    read_end, write_end = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            _be_the_command(job, write_end)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    os.close(write_end)
    killed = _killed_after(job.limit_s, child)
    took_s = time.monotonic() - started
    with os.fdopen(read_end) as answer:
        said = answer.read()
    if killed or not said:
        return Ran(code=-9 if killed else 99, took_s=took_s)
    return Ran(**json.loads(said))


def _killed_after(limit_s: float, child: int) -> bool:
    """Wait for the end of a child, which comes in time or is brought about; return whether it was."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _be_the_command(job: Job, write_end: int) -> None:
    folder = Path(job.folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.clear()
    os.environ.update(job.environment)
    # Where it hangs, if it does.
    faulthandler.dump_traceback_later(job.limit_s - 1, file=2)
    records = _watch_loggers(folder / "records")
    triton = FakeTriton(Path(job.repository))
    triton.restart(MODEL)
    _use(triton)
    Path("/proc/self/clear_refs").write_text("5")
    had = _memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (_memory("VmData") * 1024 + ROOM_BYTES, resource.RLIM_INFINITY))
    started = time.monotonic()
    code = _exit_code(job.argv)
    took_s = time.monotonic() - started
    faulthandler.cancel_dump_traceback_later()
    grew = (_memory("VmHWM") - had) / 1024
    records.close()
    ran = Ran(code=code, took_s=took_s, grew_mib=grew, serves=_asked(triton))
    os.write(write_end, json.dumps(asdict(ran)).encode())
    os._exit(0)


def _exit_code(argv: tuple[str, ...]) -> int:
    """Run the command to the end of its process, as ``program`` does."""
    try:
        code = cli.main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        # As the interpreter does with an uncaught exception.
        traceback.print_exc()
        code = 1
    if not any(thread.daemon for thread in threading.enumerate()):
        threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _watch_loggers(path: Path) -> logging.Handler:
    """Write what every logger says at any level to a file, once the command line has set up what it shows itself."""
    every = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    every.setFormatter(logging.Formatter("%(name)s %(levelname)-7s %(message)s"))
    real = logging.basicConfig

    def configure(*, level: int, **options: Any) -> None:
        real(level=level, **options)
        root = logging.getLogger()
        for handler in root.handlers:
            handler.setLevel(level)
        root.addHandler(every)
        root.setLevel(logging.DEBUG)

    logging.basicConfig = configure  # type: ignore[assignment]
    return every


def _use(triton: FakeTriton) -> None:
    for module in (collaborators, reconcile, status):
        module.tritons_of = lambda settings: [triton]  # type: ignore[attr-defined]
    for module in (doctor_triton, doctor_staging):
        module.tritons_of = lambda settings: []  # type: ignore[attr-defined]


def _asked(triton: FakeTriton) -> tuple[Any, ...]:
    """Return the answer that a client gets."""
    try:
        answer = triton.infer(MODEL, ones(), 1.0)
    except Exception as error:
        return (str(error)[:300],)
    return answer.version, float(answer.outputs["y"][0, 0])


def _memory(name: str) -> int:
    """Return a figure of this process, KiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
