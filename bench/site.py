"""The servers of a benchmark, with two versions of a trained model deployed in the usual way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_code.train_model import train_and_register
from ml_code.training.request import TrainingRequest
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.model import smoke_case
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.schema import Schema
from ml_code.triton_deploy.rules.version_files import SMOKE_CASE
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.settings import changed

MODEL = "best_model"


@dataclass(frozen=True)
class Site:
    """S3, MLflow, Triton and the gateway run; of ``MODEL`` version 2 is live and version 1 is warm."""

    stack: Stack
    settings: Settings

    def deployer(self, **changes: Any) -> Deployer:
        """Return a deployer with some settings changed."""
        return Deployer(changed(self.settings, **changes))

    @property
    def folder(self) -> ModelFolder:
        """The model's folder in the repository."""
        return ModelFolder.at(self.settings.repository_root, MODEL)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The golden inputs of version 1, which every version accepts."""
        versions = self.folder.versions
        text = (versions.path(1) / SMOKE_CASE).read_text(encoding="utf-8")
        return smoke_case.parse_case(text, Schema.from_dict(versions.require(1).schema)).inputs


@contextlib.contextmanager
def servers(*names: str) -> Iterator[Stack]:
    """Start empty servers on free ports; at the end stop them and remove their files."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Stack(Path(folder), names) as stack:
        yield stack


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Start the servers, train and deploy; at the end stop the servers and remove their files."""
    with servers("s3", "mlflow", "triton", "gateway") as stack:
        built = Site(stack, Settings.from_env(stack.environment))
        for seed in (1, 2):
            train_and_register(
                TrainingRequest(model=MODEL, seed=seed), stack.environment["MLFLOW_TRACKING_URI"]
            )
            built.deployer().deploy(
                DeployRequest(model=MODEL, alias="A", deploy_id=f"bench-{seed}", actor="bench")
            )
        yield built
