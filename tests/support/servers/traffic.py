"""Models of the stack under traffic: clients that never stop, and the failures that they must not see."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pytest

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import ones
from tests.support.models import files, golden, times
from tests.support.servers.clients import Client, Seen
from tests.support.servers.publisher import Publisher
from tests.support.servers.tritons import TritonServer


class Server(Protocol):
    """Where clients reach a Triton; ``host:port`` each."""

    @property
    def http_url(self) -> str: ...
    @property
    def grpc_url(self) -> str: ...


class HttpClient(Client):
    """As ``Client``, over one HTTP connection."""

    def _ask(self) -> None:
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}
        request = json.dumps({"inputs": [tensor]})
        connection = http.client.HTTPConnection(self._url, timeout=self._timeout_s)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                connection.request("POST", f"/v2/models/{self._model}/infer", request)
                response = connection.getresponse()
                body = json.loads(response.read())
                if response.status == 200:
                    self._answers.append((int(body["model_version"]), float(body["outputs"][0]["data"][0])))
                else:
                    self._failures.append(f"{response.status} {body['error']}")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._failures.append(repr(error))
            spent = time.monotonic() - began
            self._slowest_s = max(self._slowest_s, spent)
            self._stop.wait(max(0.0, self._pause_s - spent))
        connection.close()


class Traffic:
    """Clients of a model's public name, by gRPC and by HTTP, together 200 requests a second while the block runs.

    There are more HTTP clients than Triton has threads for them (8), so that each thread has some.
    """

    def __init__(self, server: Server, model: str) -> None:
        self._clients = [Client(server.grpc_url, model, per_second=20) for _ in range(4)]
        self._clients += [HttpClient(server.http_url, model, per_second=7.5) for _ in range(16)]
        self._running = ExitStack()
        self.seen: Sequence[Seen] = ()
        """What each client saw; complete when the block has ended."""

    def __enter__(self) -> Self:
        for client in self._clients:
            self._running.enter_context(client)
        self.everybody_asks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._running:
            if kind is None:
                self.everybody_asks()
        requests = sum(len(seen.answers) + len(seen.failures) for seen in self.seen)
        failed = sum(len(seen.failures) for seen in self.seen)
        slowest_ms = 1000 * max(seen.slowest_s for seen in self.seen)
        print(f"{requests} requests, {failed} failed, the slowest took {slowest_ms:.0f} ms")

    def everybody_asks(self) -> None:
        """Return when every client was answered once more."""
        with ThreadPoolExecutor(len(self._clients)) as pool:
            self.seen = list(pool.map(Client.seen, self._clients))


def assert_nobody_failed(seen: Sequence[Seen]) -> None:
    failures = [failure for client in seen for failure in client.failures]
    assert not failures, f"{len(failures)} requests failed, the first with {failures[0]}"


def assert_answered_by(seen: Sequence[Seen], versions: Sequence[int]) -> None:
    """Every client was answered by these versions, in this order: ``y = x * version`` tells which it really was."""
    for client in seen:
        versions_seen = [version for version, _ in client.distinct]
        assert versions_seen == list(versions), (
            f"a client was answered by {versions_seen}, not {list(versions)}"
        )
        lies = [answer for answer in client.distinct if answer[0] != answer[1]]
        assert not lies, f"an answer by {lies[0][1]} was said to be by {lies[0][0]}"


def assert_nobody_waited(seen: Sequence[Seen], limit_s: float = 1.0) -> None:
    slowest_s = max(client.slowest_s for client in seen)
    assert slowest_s < limit_s, f"a client waited for {slowest_s:.2f} s"


class Site:
    """One model on the real servers.

    Args:
        stack: S3 and MLflow run.
        model: its name.
        repository: the model repository.
        servers: the Tritons on it.
    """

    def __init__(self, stack: Stack, model: str, repository: Path, *servers: Server) -> None:
        self.model = model
        self.servers = servers
        self.folder = ModelFolder.at(repository, model)
        self._published = 0
        self.publisher = Publisher(stack.environment)
        self.environment = {
            **stack.environment,
            "TRITON_DEPLOY_REPOSITORY": str(repository),
            "TRITON_DEPLOY_GRPC_URLS": ",".join(server.grpc_url for server in servers),
            "TRITON_DEPLOY_ALIAS_WAIT_S": "0",
            "TRITON_DEPLOY_SWITCH_TIMEOUT_S": "5",
            "TRITON_DEPLOY_SETTLE_S": "0",
        }
        self.settings = Settings.from_env(self.environment)

    def publish(self, *, expected: float | None = None) -> int:
        """Register the next version, ``y = x * version``; return it. ``expected``: its golden outputs are this factor's."""
        version = self._published + 1
        return self.publish_files(files(times(version), triton__golden_json=golden(expected or version)))

    def publish_files(self, artifact: dict[str, bytes]) -> int:
        """Register the next version; return it."""
        self._published = self.publisher.publish(self.model, artifact)
        return self._published

    def deploy(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``triton-deploy deploy`` on what the alias names."""
        command = [sys.executable, "-m", "ml_code.triton_deploy.cli", "deploy", self.model, "--json"]
        environment = {**os.environ, **self.environment, **variables}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def deploy_next(self) -> None:
        """Register the next version and make it live."""
        self.publish()
        done = self.deploy()
        assert done.returncode == 0, done.stderr

    def deployer(self, *tritons: GrpcTriton) -> Deployer:
        return Deployer(self.settings, tritons=tritons or None)

    def run_until(self, last: str, deployer: Deployer | None = None) -> tuple[Deployer, str]:
        """Run the steps of a deploy through ``last``; return the deployer and the deploy id."""
        deployer = deployer or self.deployer()
        deploy_id = f"d-{time.monotonic_ns()}"
        deployer.snapshot(DeployRequest(model=self.model, alias="A", deploy_id=deploy_id))
        steps = ["materialize", "load", "ready", "smoke"]
        for step in steps[: steps.index(last) + 1]:
            getattr(deployer, step)(self.model, deploy_id)
        return deployer, deploy_id

    def traffic(self, server: int = 0) -> Traffic:
        return Traffic(self.servers[server], self.model)

    def serves(self) -> list[int]:
        """The version that each Triton answers with, checked against what it makes of 1."""
        answers = [GrpcTriton(server.grpc_url, 10).infer(self.model, ones(), 10) for server in self.servers]
        for answer in answers:
            assert answer.outputs["y"][0, 0] == answer.version
        return [answer.version for answer in answers]

    def loaded(self, server: int = 0) -> list[int]:
        """The versions whose engine a Triton has."""
        triton = GrpcTriton(self.servers[server].grpc_url, 10)
        return [v for v in range(1, self._published + 1) if triton.ready_versions(f"{self.model}.v{v}")]

    @property
    def current(self) -> Mapping[str, Any]:
        current: Mapping[str, Any] = json.loads(
            (self.folder.versions.path(1).parent / "current.json").read_text()
        )
        return current

    def quarantine(self) -> list[str]:
        """The versions in quarantine."""
        return [path.name.partition(".")[0] for path, _ in self.folder.quarantine.failures()]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model name that only this test uses."""
    return f"traffic_{request.node.name.removeprefix('test_')}"[:80].replace("[", "_").replace("]", "")


@pytest.fixture
def own_site(
    mlflow_stack: Stack, triton_server: Callable[..., TritonServer], tmp_path: Path, name: str
) -> Callable[[int], Site]:
    """``own_site(n)``: n Tritons on one repository of their own, which a test may kill."""

    def start(servers: int = 1) -> Site:
        repository = tmp_path / "model-repo"
        started = [triton_server(repository, "--disable-auto-complete-config") for _ in range(servers)]
        return Site(mlflow_stack, name, repository, *started)

    return start
