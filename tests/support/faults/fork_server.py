"""A process that has imported the library and forks a child for each operation, which a SIGKILL ends at one of its calls.

Run as ``python -m tests.support.faults.fork_server``: requests come in on stdin and answers go out on
stdout, a JSON object a line. Importing takes seconds, forking milliseconds. gRPC is imported before the
fork and first used after it: it does not live through one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnx
import onnxruntime
import tritonclient.grpc

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.errors import DeployError
from tests.support.fakes import FakeRegistry, FakeStore, fake_store
from tests.support.faults.killed_process import Watched
from tests.support.faults.operations import OPERATIONS
from tests.support.faults.served_by_fork import start
from tests.support.settings import changed
from tests.support.world import SETTINGS, World

IMPORTED = (onnx, onnxruntime, tritonclient.grpc)
"""Modules that the library imports lazily."""

CALL_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """The task of a child.

    Attributes:
        operation: one of the crash sweep's.
        part: ``prepare`` for what comes before it, ``operate`` for itself.
        repository: the model repository.
        triton: gRPC address.
        now: time of its clock, ISO 8601.
        at: number of the call at which it is killed; 0 to let it end.
        after: whether it is killed after that call, not before it.
    """

    operation: str
    part: str = "operate"
    repository: str
    triton: str
    now: str
    at: int = 0
    after: bool = False

    def world(self, store: FakeStore) -> World:
        root = Path(self.repository)
        settings = changed(SETTINGS, repository=root, triton__ready_timeout_s=CALL_S)
        triton: Any = GrpcTriton(self.triton, CALL_S)
        now = datetime.fromisoformat(self.now)
        world = World(root, settings, FakeRegistry(), store, triton, now)
        world.register_times(4)
        return world


class SelfKiller(Watched):
    """Kills this process at one of its calls."""

    def __init__(self, triton: Any, job: Job) -> None:
        super().__init__(triton)
        self._job = job

    def called(self) -> None:
        super().called()
        self._kill(after=False)

    def returned(self) -> None:
        self._kill(after=True)

    def _kill(self, after: bool) -> None:
        if self.count == self._job.at and self._job.after == after:
            os.kill(os.getpid(), signal.SIGKILL)


class ForkServer:
    """The client's side: starts the server, ends it with the block."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> Self:
        self._process = start("tests.support.faults.fork_server", self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(self, job: Job) -> dict[str, Any]:
        """Have a child do a job.

        Returns:
            ``killed``; and when it was not, ``calls`` it made, the ``error`` that it ended with or "", and
            ``now``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(job)), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the fork server died: {self._log.read_text()}"
        result: dict[str, Any] = json.loads(answer)
        return result


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(forked(Job(**json.loads(line)))), flush=True)


def forked(job: Job) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # The child must not run the exit handlers of the server.
        try:
            os.write(write_end, json.dumps(done(job)).encode())
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        said = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return {"killed": True}
    assert status == 0, f"the child of {job} ended with {status}"
    return {"killed": False, **json.loads(said)}


def done(job: Job) -> dict[str, Any]:
    with fake_store() as store:
        return done_in(job.world(store), job)


def done_in(world: World, job: Job) -> dict[str, Any]:
    prepare, operate, _ = OPERATIONS[job.operation]
    killer = SelfKiller(world.triton, job)
    error = ""
    if job.part == "prepare":
        prepare(world)
    else:
        # As the sweep on fakes does it: preparing may register another artifact.
        if job.operation == "deploy of a broken version":
            prepare(world)
        try:
            with killer.at_work():
                operate(world, world.deployer())
        except DeployError as failed:
            error = failed.kind
    return {"calls": killer.count, "error": error, "now": world.now.isoformat()}


if __name__ == "__main__":
    main()
