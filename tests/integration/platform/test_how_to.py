"""What the pages of docs/how-to tell a reader to do, done on real servers: each block in order, compared with what the page shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from stack import Stack
from tests.support.models import files, golden, times
from tests.support.servers.debian_packages import REPOSITORY
from tests.support.servers.publisher import Publisher
from tests.support.servers.tritons import TritonServer
from tests.support.tutorial import Block, Reader, blocks

pytestmark = pytest.mark.integration

PAGES = REPOSITORY / "docs/how-to"
LEGACY = """
name: "legacy"
backend: "onnxruntime"
input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 2] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1, 2] }]
"""


def settings(stack: Stack, triton: TritonServer, repository: Path) -> dict[str, str]:
    """Return what a deployer of one environment is told."""
    told = {
        name: value
        for name, value in stack.environment.items()
        if name.startswith(("MLFLOW_", "AWS_", "TRITON_DEPLOY_ARTIFACT"))
    }
    return {
        **told,
        "TRITON_DEPLOY_REPOSITORY": str(repository),
        "TRITON_DEPLOY_GRPC_URLS": triton.grpc_url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def pages_blocks(page: str, name: str, model: str) -> list[Block]:
    """Return the marked blocks of a page, about a model of this test's own: the tests share an MLflow."""
    return [
        replace(
            block,
            command=block.command.replace("best_model", model),
            shown=tuple(line.replace("best_model", model) for line in block.shown),
        )
        for block in blocks(PAGES / page, name)
    ]


def follow(found: list[Block], folder: Path, environment: Mapping[str, str]) -> None:
    assert found
    reader = Reader(folder, environment)
    for block in found:
        reader.follow(block)


def run(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    Reader(folder, environment).follow(Block("", command, ("…",)))


@pytest.mark.soak
def test_a_failed_deploy_at_night(
    mlflow_stack: Stack, triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    model, repository = "failed_at_night", tmp_path / "repository"
    environment = settings(mlflow_stack, triton_server(repository), repository)
    publisher = Publisher(mlflow_stack.environment)
    for factor, answered in ((1, 1), (2, 2), (3, 4)):
        publisher.publish(model, files(times(factor), triton__golden_json=golden(answered)))
        run(f"triton-deploy deploy {model} --alias A", tmp_path, environment)
    follow(pages_blocks("failed-deploy-at-night.md", "night", model), tmp_path, environment)
    follow(pages_blocks("upgrade.md", "upgrade", model), tmp_path, environment)


@pytest.mark.soak
def test_a_second_environment(
    mlflow_stack: Stack, triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    model = "second_environment"
    for name in ("dev", "prod"):
        repository = tmp_path / name
        told = settings(mlflow_stack, triton_server(repository), repository)
        (tmp_path / f"env.{name}").write_text("".join(f"export {key}='{told[key]}'\n" for key in told))
    publisher = Publisher(mlflow_stack.environment)
    for factor in (1, 2):
        publisher.publish(model, files(times(factor), triton__golden_json=golden(factor)), alias="dev")
    follow(pages_blocks("second-environment.md", "second environment", model), tmp_path, {})


@pytest.mark.soak
def test_beside_a_model_of_others(
    mlflow_stack: Stack, triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    model, repository, yours = "beside_others", tmp_path / "deployed", tmp_path / "yours"
    (yours / "legacy/1").mkdir(parents=True)
    (yours / "legacy/1/model.onnx").write_bytes(times(7).SerializeToString())
    (yours / "legacy/config.pbtxt").write_text(LEGACY)
    triton = triton_server(repository, f"--model-repository={yours}")
    environment = {
        **settings(mlflow_stack, triton, repository),
        "TRITON_URL": f"http://{triton.http_url}",
    }
    publisher = Publisher(mlflow_stack.environment)
    publisher.publish(model, files(times(2), triton__golden_json=golden(2)))
    publisher.publish("legacy", files(times(3), triton__golden_json=golden(3)))
    run(f"triton-deploy deploy {model} --alias A", tmp_path, environment)
    found = pages_blocks("beside-what-you-have.md", "beside", model)
    follow(found, tmp_path, environment)
    # Repairs, the end of what is not needed, and a restart leave it where it is, too.
    run("triton-deploy reconcile && triton-deploy gc", tmp_path, environment)
    triton.restart()
    follow(found, tmp_path, environment)
    served = Block(
        "", f"triton-deploy status {model}", (f"{model}: version 1, …", "Triton …: serves version 1")
    )
    follow([served], tmp_path, environment)
