"""A model of one test on the session's stack, a way to hold its deploy, and the expected states of its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from stack.servers import REPO
from tests.support.airflow.runs import AirflowCommand, environment_without_airflow
from tests.support.models import files, golden, times
from tests.support.servers.blocked_storage import blocked
from tests.support.servers.clients import Client
from tests.support.servers.publisher import Publisher
from tests.support.waiting import await_value

TASKS = {
    "snapshot": "snapshot_current",
    "materialize": "materialize_repo",
    "load": "triton_load",
    "ready": "triton_ready",
    "smoke": "triton_infer_smoke",
    "commit": "commit_current",
}

CHAIN = [*list(TASKS.values())[:-1], "canary_release", TASKS["commit"], "bake_release", "deployed"]
"""The tasks in their order; a canary and a bake that were not requested succeed at once."""

ALL_WENT_WELL = {**dict.fromkeys(CHAIN, "success"), "rollback_minimal": "skipped"}


def failed_at(step: str) -> dict[str, str]:
    """The states of a run whose ``step`` failed and whose rollback did its work."""
    failing = TASKS.get(step, f"{step}_release")
    before = CHAIN[: CHAIN.index(failing)]
    states = dict.fromkeys(CHAIN, "upstream_failed") | dict.fromkeys(before, "success")
    return states | {failing: "failed", "rollback_minimal": "success"}


REFUSED = failed_at("snapshot") | {"rollback_minimal": "skipped"}
"""The states of a run that was asked for something that its DAG does not know: there is nothing to roll back."""


class Model:
    """A model of one test on the session's stack. Version n is ``y = x * n``."""

    def __init__(self, stack: Stack) -> None:
        self.name = f"m_{uuid.uuid4().hex[:12]}"
        self.stack = stack
        self.settings = Settings.from_env(stack.environment)
        self.folder = ModelFolder.at(self.settings.repository_root, self.name)
        self.triton = InferenceServerClient(stack.url("triton-grpc"))
        self._publisher = Publisher(stack.environment)
        self._version = 0

    def register(self, artifact: dict[str, bytes] | None = None, alias: str = "A") -> int:
        """Register the next version, a good one unless ``artifact`` is another, and point the alias at it."""
        self._version += 1
        published = self._publisher.publish(self.name, artifact or good(self._version), alias=alias)
        assert published == self._version
        return published

    def point_alias(self, alias: str, version: int) -> None:
        self._publisher.set_alias(self.name, alias, version)

    def deploy(self) -> None:
        """Deploy the version of alias A without Airflow: the first state of a test."""
        deploy_id = f"before-{self._version}"
        Deployer(self.settings).deploy(DeployRequest(model=self.name, alias="A", deploy_id=deploy_id))

    def client(self) -> Client:
        # Enough to see an outage; test_deploy_under_traffic.py has swaps under more load.
        return Client(self.stack.url("triton-grpc"), self.name, per_second=25)

    @property
    def path(self) -> Path:
        return self.settings.repository_root / self.name

    @property
    def current(self) -> bytes | None:
        path = self.path / "current.json"
        return path.read_bytes() if path.exists() else None

    @property
    def quarantined(self) -> dict[str, dict[str, str]]:
        """The content of ``failure.json`` by the name of its directory."""
        found = self.path.glob("*.failed_*")
        return {path.name: json.loads((path / "failure.json").read_text()) for path in found}

    def state(self, deploy_id: str) -> State | None:
        record = self.folder.journal.find(deploy_id)
        return record.state if record else None

    def ready_versions(self, name: str) -> set[int]:
        index = self.triton.get_model_repository_index().models
        return {int(entry.version) for entry in index if entry.name == name and entry.state == "READY"}

    def status(self, deploy_id: str) -> int:
        """The exit code of `triton-deploy status MODEL --deploy-id …`, as CI asks."""
        argv = [sys.executable, "-m", cli.__name__, "status", self.name, "--deploy-id", deploy_id]
        return subprocess.run(argv, cwd=REPO, env=os.environ | self.stack.environment, check=False).returncode

    def at_work(self) -> psutil.Process:
        """The process that has the lease: the one that runs a step of the deploy."""
        lease = max((self.path / "leases").glob("*.json"))
        return psutil.Process(int(json.loads(lease.read_text())["holder"].rpartition(":")[2]))

    def engine_process(self, version: int) -> psutil.Process | None:
        """The process in which Triton holds the weights of a version."""
        instance = f"{engine_name(self.name, version)}_0_0"
        for child in psutil.Process(self.stack.pid("triton")).children():
            with suppress(psutil.NoSuchProcess):
                if instance in child.cmdline():
                    return child
        return None


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Act in another thread during the block; a failure there fails the test."""
    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(action)
        yield
        acted.result()


@contextmanager
def stopped_at(model: Model, state: State) -> Iterator[None]:
    """Wait until the deploy recorded ``state``, and stop its process there for the length of the block."""
    await_value(lambda: model.state("d2") is state or None, state, limit_s=60, pause_s=0.002)
    with stopped(model.at_work()):
        assert model.state("d2") is state, "too late: the test has to be quicker than the deploy"
        yield


@contextmanager
def hanging_load(model: Model) -> Iterator[None]:
    """Wait until Triton loads version 2, and keep that from ending for the length of the block."""
    file = model.path / "2" / "model.onnx"
    await_value(lambda: file.exists() or None, "version 2's files", limit_s=60, pause_s=0.002)
    with blocked(file) as somebody_waits:
        await_value(lambda: somebody_waits() or None, "a load", limit_s=60, pause_s=0.01)
        assert not model.ready_versions(engine_name(model.name, 2)), "too late"
        yield


def good(version: int) -> dict[str, bytes]:
    return files(times(version), triton__golden_json=golden(version))


@pytest.fixture(scope="session")
def airflow(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowCommand]:
    """Airflow's command line with a database of its own; no Airflow runs."""
    home = tmp_path_factory.mktemp("airflow")
    settings = {"TRITON_DEPLOY_ALIAS_WAIT_S": "0", "TRITON_DEPLOY_READY_TIMEOUT_S": "2"}
    environment = environment_without_airflow(stack, home, **settings)
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, cwd=REPO, env=environment, check=True, capture_output=True)
    command = AirflowCommand(home, environment)
    yield command
    command.close()


def deployed(stack: Stack, versions: int = 1) -> Model:
    """Return a model whose first ``versions`` versions were deployed without Airflow; the last one is live."""
    model = Model(stack)
    for _ in range(versions):
        model.register()
        model.deploy()
    return model


@pytest.fixture
def model(stack: Stack) -> Model:
    return Model(stack)


@pytest.fixture
def live(stack: Stack) -> Model:
    """A model whose version 1 is live."""
    return deployed(stack)
