"""Models of a given size, in MLflow's registry, behind its proxy or in S3 itself."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ml_code.triton_deploy.rules.version_files import DIGEST_TAG
from stack import Stack

BUCKET = "mlflow"
MLMODEL = "flavors:\n  onnx:\n    data: model.onnx\n    onnx_version: {version}\nmodel_uuid: bench\n"


@dataclass(frozen=True)
class Size:
    """A model of ``layers`` matrix products of ``width`` by ``width`` numbers of 4 bytes.

    Attributes:
        name: name in the tables.
        width: columns of the input.
        layers: number of products, one after the other.
        external: whether the weights are in a file of their own.
    """

    name: str
    width: int
    layers: int
    external: bool = False


SMALL = Size("1 KB", 8, 1)
MEDIUM = Size("100 MB", 2048, 6)
LARGE = Size("1 GB", 4096, 16)
LARGE_EXTERNAL = Size("1 GB, external data", 4096, 16, external=True)


def write(size: Size, folder: Path) -> None:
    """Write the files that a training run logs: the model, its golden answers and ``MLmodel``."""
    weights = np.random.default_rng(0).standard_normal((size.width, size.width), dtype=np.float32)
    weights /= np.float32(np.sqrt(size.width))
    folder.joinpath("model.onnx").write_bytes(_model(size, weights).SerializeToString())
    if size.external:
        with folder.joinpath("weights.bin").open("wb") as file:
            for _ in range(size.layers):
                file.write(weights.tobytes())
    folder.joinpath("triton").mkdir()
    folder.joinpath("triton/golden.json").write_text(json.dumps(_golden(size, weights)))
    folder.joinpath("MLmodel").write_text(MLMODEL.format(version=onnx.__version__))


def _model(size: Size, weights: NDArray[np.float32]) -> onnx.ModelProto:
    names = ["x", *(f"h{layer}" for layer in range(1, size.layers)), "y"]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [names[layer], f"w{layer}"], [names[layer + 1]])
            for layer in range(size.layers)
        ],
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size.width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", size.width])],
        [_initializer(size, layer, weights) for layer in range(size.layers)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _initializer(size: Size, layer: int, weights: NDArray[np.float32]) -> TensorProto:
    tensor = TensorProto(name=f"w{layer}", dims=weights.shape, data_type=TensorProto.FLOAT)
    if not size.external:
        tensor.raw_data = weights.tobytes()
        return tensor
    tensor.data_location = TensorProto.EXTERNAL
    where = {"location": "weights.bin", "offset": layer * weights.nbytes, "length": weights.nbytes}
    for key, value in where.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _golden(size: Size, weights: NDArray[np.float32]) -> dict[str, Any]:
    answer = row = np.ones((1, size.width), np.float32)
    for _ in range(size.layers):
        answer = answer @ weights
    tensor = {"datatype": "FP32", "shape": [1, size.width]}
    return {
        "inputs": [{"name": "x", **tensor, "data": row.ravel().tolist()}],
        "outputs": [{"name": "y", **tensor, "data": answer.ravel().tolist()}],
        "tolerance": {"rtol": 0.01, "atol": 0.01},
    }


@dataclass(frozen=True)
class Logged:
    """An artifact in a run.

    Attributes:
        run_id: the run.
        uri: its address in MLflow.
        key: its key in S3.
        size_bytes: bytes of all its files.
    """

    run_id: str
    uri: str
    key: str
    size_bytes: int


class Registry:
    """Logs artifacts and registers versions of them.

    Args:
        stack: a stack whose S3 and MLflow run.
    """

    def __init__(self, stack: Stack) -> None:
        # Imported here, because these imports take seconds.
        import boto3
        import mlflow
        from botocore.config import Config

        environment = stack.environment
        self._client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
        self.s3 = boto3.client(
            "s3",
            endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_DEFAULT_REGION"],
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def log(self, size: Size, *, direct: bool) -> Logged:
        """Upload the artifact of a new run; its address is in S3 (``direct``) or in MLflow's proxy."""
        run = self._client.create_run(self._experiment(direct)).info
        place = run.artifact_uri.removeprefix("s3://mlflow/").removeprefix("mlflow-artifacts:/").lstrip("/")
        key = f"{place}/model" if direct else f"artifacts/{place}/model"
        with written(size) as folder:
            files = [path for path in folder.rglob("*") if path.is_file()]
            for file in files:
                self.s3.upload_file(str(file), BUCKET, f"{key}/{file.relative_to(folder)}")
            size_bytes = sum(file.stat().st_size for file in files)
        return Logged(run.run_id, f"{run.artifact_uri}/model", key, size_bytes)

    def register(self, model: str, logged: Logged, *, digest: str = "") -> int:
        """Register an artifact as the next version of a model, and move the alias ``A`` to that version.

        Args:
            model: registered model; created if it does not exist.
            logged: the artifact.
            digest: the digest that training recorded; empty: none.

        Returns:
            The version.
        """
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):
            self._client.create_registered_model(model)
        tags = {DIGEST_TAG: digest} if digest else None
        source = f"runs:/{logged.run_id}/model"
        version = int(self._client.create_model_version(model, source, logged.run_id, tags=tags).version)
        self._client.set_registered_model_alias(model, "A", str(version))
        return version

    def remove(self, logged: Logged) -> None:
        """Delete the files of an artifact."""
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{logged.key}/").get("Contents", [])
        for entry in found:
            self.s3.delete_object(Bucket=BUCKET, Key=entry["Key"])

    def _experiment(self, direct: bool) -> str:
        name = "direct" if direct else "proxied"
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = f"s3://{BUCKET}/direct" if direct else None
        return str(self._client.create_experiment(name, artifact_location=location))


@contextlib.contextmanager
def written(size: Size) -> Iterator[Path]:
    """Yield a folder with the files of an artifact."""
    with tempfile.TemporaryDirectory(prefix="bench-artifact-") as folder:
        write(size, Path(folder))
        yield Path(folder)
