"""One Triton on a repository of its own, models deployed to it without MLflow, and checks of them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.errors import DeployError, VerificationFailed
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.rules.version_files import Manifest
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import FakeRegistry, FakeStore, fake_store, ones
from tests.support.models import files, golden, times
from tests.support.servers.blocked_storage import blocked
from tests.support.servers.tritons import TritonServer
from tests.support.settings import changed
from tests.support.waiting import eventually

COMPLETE = "--disable-auto-complete-config"


class Site:
    """A Triton, its repository, and an artifact store."""

    def __init__(self, server: TritonServer, repository: Path, store: FakeStore) -> None:
        self.server = server
        self.repository = repository
        self.store = store
        self.triton = GrpcTriton(server.grpc_url, 10)
        self.log_path = server.log_path

    def answer(self, model: str) -> tuple[int, float]:
        """A client's answer for 1: the version, and its output."""
        answer = self.triton.infer(model, ones(), 5)
        return answer.version, float(answer.outputs["y"][0, 0])

    def loads(self, model: str, version: int) -> int:
        """How often Triton read a version's weights, as its backend logs."""
        return self.log_path.read_text().count(f"/{model}/{version}/model.onnx' on ")

    @contextlib.contextmanager
    def hanging(self, model: str, version: int, load: Callable[[], object]) -> Iterator[Future[object]]:
        """Run ``load`` in a thread; while the block runs, Triton hangs in loading that version, and then goes on."""
        file = self.repository / model / str(version) / "model.onnx"
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load)
            # A deploy brings the file first; Triton opens it a tenth of a second after that, at the earliest.
            while not file.exists():
                assert not loading.done(), f"nothing was brought: {loading}"
                time.sleep(0.002)
            with blocked(file) as somebody_waits:
                eventually(somebody_waits, limit_s=20)
                yield loading


class Ours:
    """The library, with versions of one model to deploy."""

    def __init__(self, site: Site, model: str) -> None:
        self._site, self.model = site, model
        self.registry = FakeRegistry()
        self.settings = changed(
            Settings(),
            repository=site.repository,
            triton__grpc_urls=(site.server.grpc_url,),
            mlflow__alias_wait_s=0,
            triton__ready_timeout_s=0.5,
            triton__switch_timeout_s=10,
            triton__settle_s=0,
        )
        self.folder = ModelFolder.at(site.repository, model)

    def engine(self, version: int) -> str:
        return f"{self.model}.v{version}"

    def deployer(self, **changes: Any) -> Deployer:
        settings = changed(self.settings, **changes)
        return Deployer(settings, registry=self.registry, stores=lambda uri: self._site.store)

    def request(
        self, version: int, artifact: dict[str, bytes] | None = None, **changes: Any
    ) -> DeployRequest:
        """Point the alias at a version of ``y = x * version``, or of another artifact."""
        uri = f"fake://{self.model}/{version}"
        content = artifact or files(times(version), triton__golden_json=golden(version))
        for key in [key for key in self._site.store.objects if key.startswith(f"{uri}/")]:
            del self._site.store.objects[key]
        self._site.store.objects.update({f"{uri}/{path}": data for path, data in content.items()})
        self.registry.models[self.model] = {
            "A": RegisteredVersion(version=version, run_id="run", artifact_uris=(uri,), expected_digest="")
        }
        request = DeployRequest(model=self.model, alias="A", deploy_id=f"d{version}-{time.monotonic_ns()}")
        return replace(request, **changes)

    def deploy(
        self, version: int, artifact: dict[str, bytes] | None = None, *, force: bool = False, **changes: Any
    ) -> Deployment:
        return self.deployer(**changes).deploy(self.request(version, artifact, force=force))

    def fail_smoke(self, version: int) -> None:
        """Deploy a version whose golden outputs are another's."""
        with pytest.raises(VerificationFailed):
            self.deploy(version, files(times(version), triton__golden_json=golden(version + 1)))

    def run_until(self, version: int, last: str) -> tuple[Deployer, str]:
        """Run the steps of a deploy through ``last``; return the deployer and the deploy id."""
        deployer, request = self.deployer(), self.request(version)
        deployer.snapshot(request)
        steps = ["materialize", "load", "ready", "smoke"]
        for step in steps[: steps.index(last) + 1]:
            getattr(deployer, step)(self.model, request.deploy_id)
        return deployer, request.deploy_id

    def quarantine(self) -> list[str]:
        """The versions in quarantine."""
        return [path.name.partition(".")[0] for path, _ in self.folder.quarantine.failures()]

    def manifest(self, version: int) -> Manifest:
        return self.folder.versions.require(version)

    @property
    def serving(self) -> Fleet:
        return Fleet(self.folder, [self._site.triton], self.settings)


@pytest.fixture(scope="module")
def store() -> Iterator[FakeStore]:
    with fake_store() as store:
        yield store


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, store: FakeStore) -> Iterator[Site]:
    """One Triton for all tests that leave it running; each test has models of its own."""
    root = tmp_path_factory.mktemp("traps")
    with Stack(root / "state", ["triton"], model_repository=root / "model-repo") as running:
        yield Site(TritonServer(running), root / "model-repo", store)


@pytest.fixture
def own_site(
    triton_server: Callable[..., TritonServer], tmp_path: Path, store: FakeStore
) -> Callable[..., Site]:
    """``own_site(*triton_args)``: a Triton that the test may restart."""

    def start(*args: str) -> Site:
        return Site(triton_server(tmp_path / "model-repo", COMPLETE, *args), tmp_path / "model-repo", store)

    return start


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model name that only this test uses."""
    return re.sub(r"\W", "_", request.node.name)[:80]


def assert_serves(site: Site, model: str, version: int) -> None:
    try:
        answer = site.answer(model)
    except DeployError as error:
        raise AssertionError(f"nobody answers: {error.message}") from error
    assert answer == (version, version), f"version {answer[0]} answers, with {answer[1]}"


def assert_works(action: Callable[[], object]) -> None:
    try:
        action()
    except DeployError as error:
        raise AssertionError(error.message) from error
