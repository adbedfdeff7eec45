"""Tritons of a test's own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from stack import Stack
from stack.ports import free_ports
from stack.servers import REPO
from stack.services import build
from stack.site import Site


class TritonServer:
    """A Triton of its own on one model repository."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.http_url = stack.url("triton").removeprefix("http://")
        self.grpc_url = stack.url("triton-grpc")
        self.metrics_url = f"{stack.url('triton-metrics')}/metrics"
        self.log_path = stack.log_path("triton")

    @property
    def pid(self) -> int:
        """0 when it is stopped."""
        return self.stack.pid("triton")

    def stop(self) -> None:
        self.stack.stop_process("triton")

    def restart(self) -> None:
        """Returns when it is ready again; starts it when it was stopped."""
        self.stack.restart("triton")


@contextlib.contextmanager
def triton_without_control(state_dir: Path, repository: Path) -> Iterator[str]:
    """A Triton in its default mode, which loads what it finds at its start and nothing later; yields ``host:port``."""
    site = Site(REPO, state_dir, repository, REPO / "dags", (), free_ports())
    service = build(site, ["triton"])["triton"]
    program = service.programs[0]
    explicit = ("--model-control-mode", "--load-model")
    argv = [argument for argument in program.argv if not argument.startswith(explicit)]
    with (state_dir / "triton.log").open("wb") as log:
        process = subprocess.Popen(argv, env=program.env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while service.probe() is not None:
            assert time.monotonic() < deadline, (state_dir / "triton.log").read_text()
            time.sleep(0.1)
        yield site.url("triton-grpc")
    finally:
        process.terminate()
        process.wait(20)
