"""A site with hand-made models of two numbers: quick to start, and a further version costs almost nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest, RevertRequest
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.settings import Settings
from tests.support.models import files, golden, times, unknown_operator
from tests.support.servers.publisher import Publisher

from .site import MODEL, Site, servers

if TYPE_CHECKING:
    import onnx

ALIAS = "A"


@dataclass(frozen=True)
class SmallSite(Site):
    """S3, MLflow and Triton run; of ``MODEL`` version 2 is live and version 1 is warm.

    Version n answers ``n * x``.
    """

    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def publish(self) -> int:
        """Register the next version, whose answers are right, move the alias to it, and return its number."""
        version = next(self._numbers)
        return self._register(times(version), expected=version)

    def publish_wrong(self) -> int:
        """Do the same with a version whose answers differ from its golden outputs."""
        version = next(self._numbers)
        return self._register(times(version), expected=version + 1)

    def publish_unloadable(self) -> int:
        """Do the same with a version that is valid ONNX, with an operator that no runtime has."""
        return self._register(unknown_operator(), expected=next(self._numbers))

    def _register(self, model: onnx.ModelProto, expected: float) -> int:
        artifact = files(model, triton__golden_json=golden(expected))
        return Publisher(self.stack.environment).publish(MODEL, artifact, alias=ALIAS)


@contextlib.contextmanager
def small_site() -> Iterator[SmallSite]:
    """Start the servers and deploy two versions; at the end stop the servers and remove their files."""
    with servers("s3", "mlflow", "triton") as stack:
        built = SmallSite(stack, Settings.from_env(stack.environment))
        for _ in range(2):
            built.publish()
            deploy(built.deployer())
        yield built


def deploy(deployer: Deployer) -> Deployment:
    """Deploy the version of the alias."""
    return deployer.deploy(DeployRequest(model=MODEL, alias=ALIAS, deploy_id=_new_id(), actor="bench"))


def revert(deployer: Deployer, version: int) -> Deployment:
    """Revert to a version that was live before."""
    return deployer.revert(RevertRequest(model=MODEL, deploy_id=_new_id(), version=version, actor="bench"))


def _new_id() -> str:
    return f"bench-{uuid4().hex}"
