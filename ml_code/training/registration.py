"""Logs a trained model in MLflow, registers it, and moves the alias if the request names one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
import mlflow.onnx
import numpy.typing as npt
import onnx
from mlflow.entities import Metric
from mlflow.models import infer_signature

from ml_code.training.errors import ParityError, RegistryError, TrainingError
from ml_code.training.heldout import ARTIFACT_PATH as HELD_OUT
from ml_code.training.heldout import DIGEST_TAG as HELD_OUT_DIGEST
from ml_code.training.heldout import HeldOut
from ml_code.training.provenance import environment, git_tags
from ml_code.training.request import TrainingRequest, check_tracking_uri
from ml_code.training.trained import Parity, TrainedModel
from ml_code.triton_deploy.rules.version_files import DIGEST_TAG, GOLDEN, MODEL_FILE, FileEntry, tree_digest
from ml_code.triton_deploy.rules.web_address import credentials

GOLDEN_TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}

MAX_METRICS_A_REQUEST = 1000
"""MLflow's REST API refuses more."""

# MLflow's own defaults retry an unreachable server for 246 s.
_MLFLOW_HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A model version, new in the registry.

    Args:
        name: Registered model.
        version: Its new version.
        alias: The alias that now names it; None when none was to be moved.
        run_id: MLflow run with parameters and metrics.
        model_id: MLflow logged model (``m-…``) that holds the artifacts.
        onnx_sha256: SHA-256 of ``model.onnx``, in hex.
        metrics: The logged metrics, parity included.
    """

    name: str
    version: int
    alias: str | None
    run_id: str
    model_id: str
    onnx_sha256: str
    metrics: Mapping[str, float]


def publish(trained: TrainedModel, request: TrainingRequest, tracking_uri: str) -> RegisteredVersion:
    """Logs a trained model in a run, registers it, and moves the alias if the request names one.

    The deployer and the gate rely on the order: all artifacts, ``triton/golden.json`` and the run's
    ``evaluation/heldout.npz`` included, are stored before a version exists, and the alias moves last.

    Args:
        trained: The result of :func:`train`.
        request: Names, and the tolerance of the parity check.
        tracking_uri: MLflow's tracking server, http or https.

    Returns:
        The new version.

    Raises:
        ParityError: The export differs from the model by more than the tolerance. The run is
            kept, as failed and with its metrics; no model is logged or registered.
        RegistryError: MLflow or its artifact store failed. A version may have been created; the
            alias names what it named before, unless only the answer to setting it was lost.
    """
    select_experiment(tracking_uri, request.experiment)
    with _registry_errors(f"cannot register {request.model!r}"):
        with mlflow.start_run() as run:
            metrics = _log_measurements(run.info.run_id, trained, request)
            if not trained.parity.holds(request.parity_tolerance):
                raise _parity_error(trained.parity, request.parity_tolerance, run.info.run_id)
            model_id, digest = _log_artifacts(trained)
        version = mlflow.register_model(
            f"models:/{model_id}", request.model, await_registration_for=60, tags={DIGEST_TAG: digest}
        )
        if request.alias:
            # The last step: no failure follows it.
            mlflow.MlflowClient().set_registered_model_alias(request.model, request.alias, version.version)
    return RegisteredVersion(
        name=request.model,
        version=int(version.version),
        alias=request.alias or None,
        run_id=run.info.run_id,
        model_id=model_id,
        onnx_sha256=trained.onnx_sha256,
        metrics=metrics,
    )


def golden_document(
    examples: Mapping[str, npt.NDArray[Any]], expected: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    """The golden inputs and outputs as KServe v2 JSON, data flat in row-major order.

    Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

    Args:
        examples: Inputs by name, float32 or int64.
        expected: Outputs by name, float32 or int64.

    Returns:
        ``inputs`` and ``outputs`` as lists of tensors, and the ``tolerance`` to compare with.
    """
    return {
        "inputs": [_tensor(name, array) for name, array in examples.items()],
        "outputs": [_tensor(name, array) for name, array in expected.items()],
        "tolerance": GOLDEN_TOLERANCE,
    }


def _tensor(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": {"float32": "FP32", "int64": "INT64"}[array.dtype.name],
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }


def select_experiment(tracking_uri: str, experiment: str) -> None:
    """Makes MLflow's client use this server and experiment, creating the experiment if missing.

    Bounds the client's retries, in this process's environment, unless the user has set them.

    Args:
        tracking_uri: MLflow's tracking server, http or https.
        experiment: Name of the experiment.

    Raises:
        InvalidRequestError: The URI is empty or no http(s) address.
        RegistryError: The server cannot be reached or refuses; after about 7 s if nothing
            listens there, 50 s if it does not answer.
    """
    check_tracking_uri(tracking_uri)
    # MLflow reads these at every request; values that the user has set win.
    for name, value in _MLFLOW_HTTP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # MLflow prints the address in links, so user and password go into the variables that its client reads.
    address, user, password = credentials(tracking_uri)
    if user:
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
    with _registry_errors(f"cannot use experiment {experiment!r} of MLflow at {address}"):
        mlflow.set_tracking_uri(address)
        mlflow.set_experiment(experiment)


def _log_measurements(run_id: str, trained: TrainedModel, request: TrainingRequest) -> dict[str, float]:
    metrics = {
        **trained.metrics,
        **{f"parity_{name}": float(x) for name, x in asdict(trained.parity).items()},
    }
    mlflow.log_params(
        {
            **trained.params,
            "data_sha256": trained.data_sha256,
            "parity_tolerance": request.parity_tolerance,
            "python_version": platform.python_version(),
        }
    )
    mlflow.log_metrics(metrics)
    _log_curves(run_id, trained.curves)
    mlflow.set_tags({"onnx_sha256": trained.onnx_sha256, **git_tags()})
    mlflow.log_dict(environment(), "environment.json")
    with tempfile.TemporaryDirectory() as directory:
        for name, png in trained.plots.items():
            Path(directory, f"{name}.png").write_bytes(png)
        mlflow.log_artifacts(directory, "plots")
    return metrics


def _log_curves(run_id: str, curves: Mapping[str, Sequence[float]]) -> None:
    """Logs all steps of all curves in as few requests as MLflow takes."""
    now_ms = int(time.time() * 1000)
    points = [
        Metric(name, float(value), now_ms, step)
        for name, values in curves.items()
        for step, value in enumerate(values, start=1)
    ]
    for first in range(0, len(points), MAX_METRICS_A_REQUEST):
        mlflow.MlflowClient().log_batch(run_id, metrics=points[first : first + MAX_METRICS_A_REQUEST])


def _log_artifacts(trained: TrainedModel) -> tuple[str, str]:
    """Stores model.onnx and triton/golden.json in one logged model; returns its id and their digest."""
    logged = mlflow.onnx.log_model(
        onnx.load_model_from_string(trained.onnx),
        name="model",
        # An input example alone gives an ONNX model no signature.
        signature=infer_signature(dict(trained.examples), dict(trained.expected)),
        input_example=dict(trained.examples),
        # One self-contained file whose bytes are those that passed the parity check: external
        # data pays from some 100 MB, and is needed from 2 GB.
        save_as_external_data=False,
        # Otherwise inferred by loading the model in another process: 5 s for the same two lines.
        pip_requirements=mlflow.onnx.get_default_pip_requirements(),
        onnx_execution_providers=["CPUExecutionProvider"],
    )
    # Not `extra_files`, which MLflow puts under extra_files/: the deployer looks beside model.onnx.
    golden = json.dumps(golden_document(trained.examples, trained.expected)).encode()
    _log_held_out(trained.held_out)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "golden.json").write_bytes(golden)
        mlflow.MlflowClient().log_model_artifacts(logged.model_id, directory, "triton")
    # The deployer computes the same digest, unless the files are damaged on the way.
    digest = tree_digest([_entry(MODEL_FILE, trained.onnx), _entry(GOLDEN, golden)])
    return logged.model_id, digest


def _log_held_out(held_out: HeldOut) -> None:
    rows = held_out.to_bytes()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, PurePosixPath(HELD_OUT).name)
        path.write_bytes(rows)
        mlflow.log_artifact(str(path), str(PurePosixPath(HELD_OUT).parent))
    # A user who may only write artifacts can't change this tag, so the gate refuses rows that were replaced.
    mlflow.set_tag(HELD_OUT_DIGEST, hashlib.sha256(rows).hexdigest())


def _entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _parity_error(parity: Parity, tolerance: float, run_id: str) -> ParityError:
    return ParityError(
        f"the ONNX export differs from the trained model: numbers by up to {parity.max_abs_error:.3g}"
        f" ({parity.max_rel_error:.3g} of their size; tolerance {tolerance:.3g}), labels agree in"
        f" {parity.label_agreement:.2%} of {parity.rows} rows",
        f"Nothing was registered; see run {run_id}. Check the versions of the exporter and of"
        " onnxruntime, or raise the tolerance if the difference is acceptable.",
    )


@contextlib.contextmanager
def _registry_errors(what: str) -> Iterator[None]:
    """Turns the exceptions of MLflow and of its artifact store's client into a RegistryError."""
    try:
        yield
    except TrainingError:
        raise
    # MLflow passes on every exception of its store's client (boto3, requests, urllib3, OSError):
    # there is no narrower type.
    except Exception as error:
        raise RegistryError(
            f"{what}: {type(error).__name__}: {error}",
            "The alias moves last: unless setting it is what failed, it names what it named before."
            " Check that the server answers at MLFLOW_TRACKING_URI and admits you; for an"
            " experiment stored directly on S3 set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and"
            " MLFLOW_S3_ENDPOINT_URL (with http:// or https://).",
        ) from error
