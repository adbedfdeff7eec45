"""A deployer on fakes: everything but the servers is real, the repository's files included."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.report.mlflow_tags import MlflowTags
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.canary_evidence import Judge
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.settings import Settings
from tests.support.fakes import FakeRegistry, FakeStore, FakeTriton, fake_store, ones
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.signing import declared

MODEL = "best_model"
SETTINGS = changed(
    Settings(),
    mlflow__alias_wait_s=0,
    triton__ready_timeout_s=0.1,
    transfer__min_free_bytes=0,
    lease_s=900,
    triton__load_timeout_s=60,
    triton__settle_s=0,
)


@dataclass
class World:
    """All that a deploy touches, and the time."""

    root: Path
    settings: Settings
    registry: FakeRegistry
    store: FakeStore
    triton: FakeTriton
    now: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def register(
        self, version: int, artifact: dict[str, bytes], *, alias: str = "A", digest: str = "", uri: str = ""
    ) -> None:
        """Put a version where MLflow and S3 would have it, and point the alias at it."""
        uri = uri or f"fake://artifacts/{version}"
        self.store.objects.update({f"{uri}/{path}": data for path, data in artifact.items()})
        self.registry.models.setdefault(MODEL, {})[alias] = RegisteredVersion(
            version=version, run_id=f"run{version}", artifact_uris=(uri,), expected_digest=digest
        )

    def register_times(self, version: int, *, expected: float | None = None) -> None:
        """Register ``y = x * version``, with golden outputs of another factor if ``expected`` says so."""
        factor = float(version if expected is None else expected)
        self.register(version, files(times(float(version)), triton__golden_json=golden(factor)))

    def deployer(
        self,
        feedback: MlflowTags | None = None,
        tritons: Sequence[FakeTriton] = (),
        sleep: Callable[[float], None] = time.sleep,
        judge: Judge | None = None,
        **changes: Any,
    ) -> Deployer:
        """Return a deployer to ``tritons``, by default the one of this world."""
        return Deployer(
            changed(self.settings, **changes),
            registry=self.registry,
            stores=lambda uri: self.store,
            tritons=tritons or [self.triton],
            clock=lambda: self.now,
            feedback=feedback,
            sleep=sleep,
            judge=judge,
            sign=declared,
        )

    def request(self, deploy_id: str = "d1", **changes: Any) -> DeployRequest:
        return replace(DeployRequest(model=MODEL, alias="A", deploy_id=deploy_id, actor="test"), **changes)

    def deploy(self, deploy_id: str = "d1", **changes: Any) -> Deployment:
        return self.deployer().deploy(self.request(deploy_id, **changes))

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def folder(self) -> ModelFolder:
        return ModelFolder.at(self.root, MODEL)

    @property
    def current(self) -> str | None:
        path = self.root / MODEL / "current.json"
        return path.read_text() if path.exists() else None

    @property
    def names(self) -> set[str]:
        """Names in the model's directory."""
        return {path.name for path in (self.root / MODEL).iterdir()}

    @property
    def engines(self) -> set[str]:
        return {path.name for path in self.root.iterdir()} - {MODEL}

    def ask(self) -> tuple[int, float]:
        """A client's answer: the version, and its answer to 1."""
        answer = self.triton.infer(MODEL, ones(), 1.0)
        return answer.version, float(answer.outputs["y"][0, 0])


def deployed(world: World) -> World:
    """Deploy versions 1 to 3, so that 3 is live and 2 is warm, and register version 4; return the world."""
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    world.register_times(4)
    return world


@pytest.fixture
def fresh_world(tmp_path: Path) -> Iterator[Callable[[], World]]:
    """Gives a world of its own at each call, all with one store."""
    with fake_store() as store:
        count = itertools.count()

        def fresh() -> World:
            root = tmp_path / f"repository-{next(count)}"
            root.mkdir()
            return World(root, replace(SETTINGS, repository=root), FakeRegistry(), store, FakeTriton(root))

        yield fresh


@pytest.fixture
def world(fresh_world: Callable[[], World]) -> World:
    return fresh_world()
