"""A model in process: the gateway's local backend, and ``mlflow models serve``, each with one worker process.

Both load the same version from the same MLflow by its alias and run it in ONNX Runtime. ``mlflow models
serve`` is started as in MLflow's guide for the current environment (``--env-manager local``), and gets
``inputs``, its form for tensors. Both have their defaults, and start without any file of the model on disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
import requests

from ml_code.train_model import train_and_register
from ml_code.training.request import TrainingRequest
from stack.ports import free_ports
from stack.site import LOCAL

from .http_load import Target, as_series, in_turn, post
from .process_tree import MIB, memory_bytes
from .series import Series, by_way
from .site import MODEL, servers

GATEWAY, MLFLOW = "gateway, local backend", "mlflow models serve"
PERCENTILES = (50, 95, 99)
ROW = [1.0] * 30
"""A row for the classifier that training makes by default."""
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 30.0
_LOOK_EVERY_S = 0.02


def run(quick: bool) -> list[Series]:
    """Measure start, memory, throughput and latencies of both.

    Args:
        quick: one start of each and a few short rounds only.

    Returns:
        Seconds from the start of the process to the first answer; memory of its processes after that in
        MiB; for 1 and 16 connections, requests a second and the latencies' p50, p95 and p99 in
        milliseconds, a value for each round.
    """
    starts, rounds, duration_s = (1, 2, 0.2) if quick else (5, 6, 1.5)
    with tempfile.TemporaryDirectory(prefix="bench-local-") as folder, servers("s3", "mlflow") as stack:
        train_and_register(TrainingRequest(model=MODEL), stack.environment["MLFLOW_TRACKING_URI"])
        environment = {**os.environ, **stack.environment, "TMPDIR": folder}
        started: dict[str, list[Server]] = {GATEWAY: [], MLFLOW: []}
        for number in range(starts):
            print(f"  local: start {number + 1} of {starts}", flush=True)
            with ExitStack() as running:
                for name, start in _STARTS.items():
                    started[name].append(running.enter_context(start(environment, Path(folder))))
                check_same_answer(*(servers[-1].answer for servers in started.values()))
                if number + 1 == starts:
                    targets = {name: servers[-1].target for name, servers in started.items()}
                    load = _under_load(targets, rounds, duration_s)
    return [
        *by_way(
            {name: [server.start_s for server in servers] for name, servers in started.items()},
            "s",
            baseline=MLFLOW,
            name="start to first answer: {}",
        ),
        *by_way(
            {name: [server.memory_mib for server in servers] for name, servers in started.items()},
            "MiB",
            baseline=MLFLOW,
            name="memory: {}",
        ),
        *load,
    ]


def _under_load(targets: Mapping[str, Target], rounds: int, duration_s: float) -> list[Series]:
    series = []
    for connections in (1, 16):
        print(f"  local: {connections} connections", flush=True)
        measured = in_turn(targets, connections, rounds, duration_s)
        series += as_series(f"{connections} conn.", measured, baseline=MLFLOW, percentiles=PERCENTILES)
    return series


class Server:
    """A server in a process of its own that runs for the time of a ``with`` block.

    Args:
        command: command that starts the server.
        environment: all environment variables of the server.
        port: port of the server.
        path: path of the requests.
        body: body of the requests.
        log: file for the server's output.

    Attributes:
        target: the server and its request.
        answer: the first answer.
        start_s: seconds from the start to the first answer.
        memory_mib: memory of the server's processes after the first answer, MiB.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        port: int,
        path: str,
        body: bytes,
        log: Path,
    ) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._url, self._body = f"http://{LOCAL}:{port}{path}", body
        self.target = Target(f"{LOCAL}:{port}", post(path, body, _JSON))

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            began_s = time.monotonic()
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self.answer = self._first_answer(began_s + _START_LIMIT_S)
            self.start_s = time.monotonic() - began_s
            self.memory_mib = memory_bytes(self._process.pid) / MIB
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _first_answer(self, until_s: float) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < until_s and self._process.poll() is None:
                try:
                    answer = session.post(self._url, self._body, headers=_JSON, timeout=10)
                except requests.ConnectionError:
                    answer = None
                if answer is not None and answer.ok:
                    return answer.json()
                time.sleep(_LOOK_EVERY_S)
        said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(
            f"{' '.join(self._command)} gave no answer within {_START_LIMIT_S:g} s; it said:\n{said}"
        )

    def _stop(self) -> None:
        """End the whole session: ``mlflow models serve`` does not pass a signal on to its server process."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


_JSON = {"Content-Type": "application/json"}


def _gateway(environment: Mapping[str, str], folder: Path) -> Server:
    port = free_ports()["gateway"]
    settings = {
        "GATEWAY_BACKEND": "local",
        "GATEWAY_MODEL": MODEL,
        "GATEWAY_ALIAS": "A",
        "GATEWAY_PORT": str(port),
    }
    return Server(
        command=[sys.executable, "-m", "ml_code.gateway.cli"],
        environment={**environment, **settings},
        port=port,
        path="/predict",
        body=orjson.dumps({"rows": [ROW]}),
        log=folder / "gateway.log",
    )


def _mlflow(environment: Mapping[str, str], folder: Path) -> Server:
    port = free_ports()["gateway"]
    options = f"-m models:/{MODEL}@A --env-manager local --host {LOCAL} --port {port} --workers 1"
    # MLflow starts ``uvicorn`` by name, so the name has to be on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return Server(
        command=[sys.executable, "-m", "mlflow", "models", "serve", *options.split()],
        environment={**environment, "PATH": path},
        port=port,
        path="/invocations",
        body=orjson.dumps({"inputs": [ROW]}),
        log=folder / "mlflow.log",
    )


_STARTS = {GATEWAY: _gateway, MLFLOW: _mlflow}
"""Our server starts first, which favours MLflow.

Pages of shared libraries count in full for a server that runs alone, and half once both run.
"""


def check_same_answer(ours: Any, theirs: Any) -> None:
    """Check that both servers gave the same answer.

    Args:
        ours, theirs: the answers of ``/predict`` and ``/invocations``.

    Raises:
        RuntimeError: an output differs.
    """
    for name, values in theirs["predictions"].items():
        if not np.allclose(ours["outputs"][name], values, rtol=1e-5):
            raise RuntimeError(f"output {name} differs: {ours['outputs'][name]} and {values}")
