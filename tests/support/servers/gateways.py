"""A real gateway process, releases on real Tritons for it to follow, and clients that never stop asking."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
import pytest
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest, RevertRequest
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.rules.deployment import Canary
from stack import Stack
from stack.ports import free_ports
from tests.support.fakes import FakeRegistry, FakeStore, fake_store
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.waiting import eventually
from tests.support.world import SETTINGS

START_TIMEOUT_S = 150.0


def free_port() -> int:
    return free_ports()["gateway"]


class Gateway:
    """A gateway in a process of its own, under uvicorn; runs while the block does.

    Args:
        log: file for its output.
        environment: its settings.
        ready: wait until it can predict, not only until it is alive.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], *, ready: bool = True) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._log, self._ready = log, ready
        # Exports of the caller's shell for another gateway must not reach this one.
        own = {
            k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "TRITON_", "PROMETHEUS_"))
        }
        self._environment = {**own, "GATEWAY_PORT": str(self.port), **environment}

    def __enter__(self) -> Self:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ml_code.gateway.cli"],
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        try:
            path = "/health/ready" if self._ready else "/health/live"
            eventually(lambda: self._answers(path), f"{path}, see {self._log}", START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, timeout=60, **options)

    def info(self) -> dict[str, Any]:
        content: dict[str, Any] = self.get("/model-info").json()
        return content

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def memory_bytes(self) -> int:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    def _answers(self, path: str) -> bool:
        assert self.process.poll() is None, f"the gateway ended: {self._log.read_text()[-3000:]}"
        try:
            return self.get(path).ok
        except requests.ConnectionError:
            return False


class Releases:
    """A model whose version ``n`` answers ``n`` times what it is asked, deployed to real Tritons without MLflow.

    Args:
        root: the model repository.
        store: where its artifacts are.
        stacks: the Tritons.
        model: its name.
    """

    def __init__(
        self, root: Path, store: FakeStore, stacks: Sequence[Stack], model: str = "best_model"
    ) -> None:
        self.root, self.model, self.stacks = root, model, list(stacks)
        self._store, self._registry = store, FakeRegistry()
        self._ids = (f"d{number:04d}" for number in itertools.count())
        self._versions = itertools.count(1)
        self.settings = changed(
            SETTINGS,
            repository=root,
            triton__grpc_urls=tuple(stack.url("triton-grpc") for stack in stacks),
            triton__ready_timeout_s=30,
        )

    @property
    def deployer(self) -> Deployer:
        return Deployer(self.settings, registry=self._registry, stores=lambda uri: self._store)

    @property
    def environment(self) -> dict[str, str]:
        """A gateway's settings for them."""
        return {
            "TRITON_DEPLOY_REPOSITORY": str(self.root),
            "GATEWAY_TRITON_URLS": ",".join(s.url("triton").removeprefix("http://") for s in self.stacks),
            "GATEWAY_MODEL": self.model,
            "GATEWAY_POLL_INTERVAL_S": "0.1",
        }

    def deploy(self, make: Callable[[float], onnx.ModelProto] = times) -> int:
        """Deploy the next version and return it; ``make`` gives its model for its factor."""
        version = self._register(right=True, make=make)
        self.deployer.deploy(DeployRequest(model=self.model, alias="A", deploy_id=next(self._ids)))
        return version

    def request(
        self, canary: Canary | None, make: Callable[[float], onnx.ModelProto] = times
    ) -> tuple[int, DeployRequest]:
        """Return the next version, and what asks for its deploy.

        Args:
            canary: what of the traffic it gets before.
            make: makes it, given its factor.
        """
        version = self._register(right=True, make=make)
        deploy_id = next(self._ids)
        return version, DeployRequest(model=self.model, alias="A", deploy_id=deploy_id, canary=canary)

    def fail(self) -> int:
        """Deploy a version whose answers are wrong; return it. It is rolled back."""
        version = self._register(right=False)
        try:
            self.deployer.deploy(DeployRequest(model=self.model, alias="A", deploy_id=next(self._ids)))
        except DeployError:
            return version
        raise AssertionError("a wrong model was deployed")

    def revert(self) -> None:
        """Go back to the version before."""
        self.deployer.revert(RevertRequest(model=self.model, deploy_id=next(self._ids)))

    @property
    def current_file(self) -> Path:
        return self.root / self.model / "current.json"

    @property
    def live(self) -> int:
        version: int = json.loads(self.current_file.read_text())["active_version"]
        return version

    def _register(self, *, right: bool, make: Callable[[float], onnx.ModelProto] = times) -> int:
        version = next(self._versions)
        uri = f"fake://{self.model}/{version}"
        artifact = files(make(version), triton__golden_json=golden(version if right else version + 1))
        self._store.objects.update({f"{uri}/{path}": data for path, data in artifact.items()})
        self._registry.models.setdefault(self.model, {})["A"] = RegisteredVersion(
            version=version, run_id=f"run{version}", artifact_uris=(uri,), expected_digest=""
        )
        return version


class RealClient(InferenceServerClient):  # type: ignore[misc]
    """Triton's own client; remembers the header that it does not show."""

    version = ""

    def _post(self, *args: Any, **options: Any) -> Any:
        response = super()._post(*args, **options)
        self.version = response.get("X-Model-Version")
        return response


@dataclass
class Seen:
    """The answers that the clients of a Traffic got."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def versions(self) -> set[int]:
        return {version for _, version in self.answers}


class Traffic:
    """Clients that ask a model ``y = x * version`` in three ways, at a fixed rate, while the block runs.

    Args:
        address: ``host:port`` of the gateway.
        model: its name.
        per_second: requests a second, all clients together.
        clients: threads for each way.
        header: whether answers name their version in a header, too.
    """

    def __init__(
        self, address: str, model: str, *, per_second: float = 120, clients: int = 2, header: bool = True
    ) -> None:
        self._address, self._model, self._header = address, model, header
        self.seen = Seen()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        ways = {"predict": self._predict, "v2 json": self._v2_json, "v2 binary": self._v2_binary}
        self._pause_s = len(ways) * clients / per_second
        self._threads = [
            threading.Thread(target=self._run, args=(way, make), daemon=True)
            for way, make in ways.items()
            for _ in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.ask_more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.ask_more()
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
        print(
            f"{self.seen.answers.total()} answers, {len(self.seen.failures)} failures, "
            f"slowest {1000 * self.seen.slowest_s:.0f} ms"
        )

    def ask_more(self, count: int = 30) -> None:
        """Return when this many requests more have ended."""
        wanted = self.seen.answers.total() + len(self.seen.failures) + count
        eventually(
            lambda: self.seen.answers.total() + len(self.seen.failures) >= wanted, "clients are answered", 60
        )

    def assert_unnoticed(self) -> None:
        """No request failed, and every answer came from the version in its header."""
        assert not self.seen.failures, f"{len(self.seen.failures)} failed, first: {self.seen.failures[0]}"
        assert not self.seen.lies, f"{len(self.seen.lies)} lies, first: {self.seen.lies[0]}"
        assert {way for way, _ in self.seen.answers} == {"predict", "v2 json", "v2 binary"}

    def _run(self, way: str, make: Callable[[], Callable[[], tuple[str, float]]]) -> None:
        ask = make()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                header, factor = ask()
            except Exception as error:  # whatever it is, a client saw it
                with self._lock:
                    self.seen.failures.append(f"{way}: {type(error).__name__} {error}")
            else:
                with self._lock:
                    self.seen.answers[way, int(factor)] += 1
                    if header != str(int(factor)):
                        self.seen.lies.append(f"{way}: header {header!r}, answer of {factor}")
            spent_s = time.monotonic() - began
            with self._lock:
                self.seen.slowest_s = max(self.seen.slowest_s, spent_s)
            self._stop.wait(max(0.0, self._pause_s - spent_s))

    def _predict(self) -> Callable[[], tuple[str, float]]:
        connection = http.client.HTTPConnection(self._address, timeout=60)

        def ask() -> tuple[str, float]:
            try:
                connection.request("POST", f"/predict/{self._model}", json.dumps({"rows": [[1, 1]]}))
                response = connection.getresponse()
                content = json.loads(response.read())
            except Exception:
                connection.close()
                raise
            if response.status != 200:
                raise RuntimeError(f"{response.status} {content}")
            assert str(content["version"]) == response.headers["X-Model-Version"]
            return response.headers["X-Model-Version"], content["outputs"]["y"][0][0]

        return ask

    def _v2_json(self) -> Callable[[], tuple[str, float]]:
        return self._v2(binary=False)

    def _v2_binary(self) -> Callable[[], tuple[str, float]]:
        return self._v2(binary=True)

    def _v2(self, *, binary: bool) -> Callable[[], tuple[str, float]]:
        client = RealClient(self._address, connection_timeout=60, network_timeout=60)
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), np.float32), binary_data=binary)
        output = InferRequestedOutput("y", binary_data=binary)

        def ask() -> tuple[str, float]:
            result = client.infer(self._model, [tensor], outputs=[output])
            version = result.get_response()["model_version"]
            assert not self._header or client.version == version
            return version, float(result.as_numpy("y")[0, 0])

        return ask


# Fixtures


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    """Two Tritons on one repository, and a first release."""
    root = tmp_path_factory.mktemp("repository")
    with ExitStack() as running:
        stacks = [
            running.enter_context(Stack(tmp_path_factory.mktemp("triton"), ["triton"], model_repository=root))
            for _ in range(2)
        ]
        found = Releases(root, running.enter_context(fake_store()), stacks)
        found.deploy()
        yield found


@pytest.fixture(scope="session")
def gateway(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway") / "log", releases.environment) as running:
        yield running


@pytest.fixture
def own_gateway(releases: Releases, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """``own_gateway(GATEWAY_…=…)``: another one, with other settings."""
    with ExitStack() as running:

        def start(*, ready: bool = True, **environment: str) -> Gateway:
            return running.enter_context(
                Gateway(tmp_path / "log", {**releases.environment, **environment}, ready=ready)
            )

        yield start
