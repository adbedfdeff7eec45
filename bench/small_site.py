"""A site with hand-made models of two numbers: it starts in seconds, and one more version costs next to nothing."""

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
    """S3, MLflow and Triton run; versions 1 and 2 of ``MODEL`` were deployed, 2 is live, 1 is warm. Version n answers ``n * x``."""

    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def publish(self) -> int:
        """Register the next version, whose answers are right, and point the alias at it; return it."""
        version = next(self._numbers)
        return self._register(times(version), expected=version)

    def publish_wrong(self) -> int:
        """The same with a version that does not answer as those who trained it expect."""
        version = next(self._numbers)
        return self._register(times(version), expected=version + 1)

    def publish_unloadable(self) -> int:
        """The same with a version that is sound ONNX with an operator that no runtime has."""
        return self._register(unknown_operator(), expected=next(self._numbers))

    def _register(self, model: onnx.ModelProto, expected: float) -> int:
        artifact = files(model, triton__golden_json=golden(expected))
        return Publisher(self.stack.environment).publish(MODEL, artifact, alias=ALIAS)


@contextlib.contextmanager
def small_site() -> Iterator[SmallSite]:
    """Start the servers and deploy two versions; everything is stopped and removed afterwards."""
    with servers("s3", "mlflow", "triton") as stack:
        built = SmallSite(stack, Settings.from_env(stack.environment))
        for _ in range(2):
            built.publish()
            deploy(built.deployer())
        yield built


def deploy(deployer: Deployer) -> Deployment:
    """Deploy what the alias names."""
    return deployer.deploy(DeployRequest(model=MODEL, alias=ALIAS, deploy_id=_new_id(), actor="bench"))


def revert(deployer: Deployer, version: int) -> Deployment:
    """Make a version live again that was live before."""
    return deployer.revert(RevertRequest(model=MODEL, deploy_id=_new_id(), version=version, actor="bench"))


def _new_id() -> str:
    return f"bench-{uuid4().hex}"
