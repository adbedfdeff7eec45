"""Training against a real MLflow server and S3 store, checked by REST as a deployer reads it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import pytest
import requests

from ml_code.train_model import main, train_and_register
from ml_code.training.errors import ParityError, RegistryError
from ml_code.training.heldout import DIGEST_TAG, HeldOut
from ml_code.training.request import TrainingRequest
from ml_code.training.trainer import train
from tests.support.lazily import lazily

mlflow = lazily("mlflow")
registration = lazily("ml_code.training.registration")

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[3]


class MlflowStack(Protocol):
    """What these tests need of the fixture."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a client reaches MLflow and S3."""


class Rest:
    """MLflow by REST, with neither mlflow nor boto3."""

    def __init__(self, uri: str) -> None:
        self._api = f"{uri}/api/2.0"

    def get(self, route: str, **query: str) -> tuple[int, dict[str, Any]]:
        response = requests.get(f"{self._api}/{route}", params=query, timeout=30)
        body: dict[str, Any] = response.json()
        return response.status_code, body

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        response = requests.post(f"{self._api}/{route}", json=body, timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def alias(self, model: str, alias: str = "A") -> tuple[int, dict[str, Any]]:
        status, body = self.get("mlflow/registered-models/alias", name=model, alias=alias)
        return status, body.get("model_version", body)

    def place(self, model: str, version: int) -> str:
        uri = self.get("mlflow/model-versions/get-download-uri", name=model, version=str(version))[1][
            "artifact_uri"
        ]
        return str(uri)

    def files(self, model_id: str, directory: str = "") -> set[str]:
        body = self.get(
            f"mlflow/logged-models/{model_id}/artifacts/directories",
            artifact_directory_path=directory,
        )[1]
        return {entry["path"] for entry in body.get("files", [])}

    def presigned_url(self, path: str) -> str:
        return str(self.get(f"mlflow-artifacts/presigned/{path}")[1]["url"])

    def download(self, path: str) -> bytes:
        response = requests.get(self.presigned_url(path), timeout=30)
        response.raise_for_status()
        return response.content

    def run(self, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.get("mlflow/runs/get", run_id=run_id)[1]["run"]
        return run


@pytest.fixture
def tracking_uri(mlflow_stack: MlflowStack, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in mlflow_stack.environment.items():
        monkeypatch.setenv(name, value)
    return mlflow_stack.environment["MLFLOW_TRACKING_URI"]


@pytest.fixture
def rest(tracking_uri: str) -> Rest:
    return Rest(tracking_uri)


@pytest.fixture
def model() -> str:
    return f"model_{uuid.uuid4().hex[:8]}"


def run_command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ml_code.train_model", *arguments],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


def answers_of(onnx_file: bytes, golden: dict[str, Any]) -> dict[str, Any]:
    tensors = {
        t["name"]: np.array(t["data"], {"FP32": "f4", "INT64": "i8"}[t["datatype"]]).reshape(t["shape"])
        for t in golden["inputs"]
    }
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, tensors), strict=True))


def test_a_deployer_finds_by_rest_all_it_needs(rest: Rest, model: str) -> None:
    finished = run_command_line("--model", model, "--regularization", "2", "--json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)

    status, version = rest.alias(model)
    assert status == 200
    assert version["source"] == f"models:/{result['model_id']}"
    assert (version["version"], version["run_id"]) == ("1", result["run_id"])

    place = rest.place(model, 1).removeprefix("mlflow-artifacts:/")
    listing = rest.get("mlflow-artifacts/artifacts", path=place)[1]["files"]
    names = {entry["path"] for entry in listing}
    assert {"model.onnx", "MLmodel", "triton"} <= names
    assert not [name for name in names if name.endswith(".data")]

    onnx_file = rest.download(f"{place}/model.onnx")
    assert hashlib.sha256(onnx_file).hexdigest() == result["onnx_sha256"]
    # Another process with the same request: the same bytes.
    assert onnx_file == train(TrainingRequest(options={"regularization": 2})).onnx

    golden = json.loads(rest.download(f"{place}/triton/golden.json"))
    answered = answers_of(onnx_file, golden)
    assert {t["name"] for t in golden["outputs"]} == set(answered)
    for tensor in golden["outputs"]:
        expected = np.array(tensor["data"]).reshape(tensor["shape"])
        np.testing.assert_allclose(answered[tensor["name"]], expected, **golden["tolerance"])


def test_the_run_holds_parameters_metrics_and_signature(rest: Rest, model: str) -> None:
    request = TrainingRequest(model=model, seed=11)
    registered = train_and_register(request)
    run = rest.run(registered.run_id)
    assert run["info"]["status"] == "FINISHED"
    params = {p["key"]: p["value"] for p in run["data"]["params"]}
    assert params.items() >= {"trainer": "classifier", "seed": "11", "regularization": "1.0"}.items()
    metrics = {m["key"]: m["value"] for m in run["data"]["metrics"]}
    assert metrics == pytest.approx(dict(registered.metrics))
    assert metrics["parity_max_abs_error"] < request.parity_tolerance
    assert metrics["parity_label_agreement"] == 1

    loaded = mlflow().pyfunc.load_model(f"models:/{model}@A")
    signature = loaded.metadata.signature.to_dict()
    assert json.loads(signature["inputs"]) == [tensor_spec("features", "float32", [-1, 30])]
    assert json.loads(signature["outputs"]) == [
        tensor_spec("label", "int64", [-1]),
        tensor_spec("probabilities", "float32", [-1, 2]),
    ]
    answer = loaded.predict({"features": train(request).examples["features"]})
    assert set(answer) == {"label", "probabilities"}


def tensor_spec(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, "name": name}


def test_all_artifacts_are_stored_before_the_version_exists_and_the_alias_moves_last(
    rest: Rest, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = mlflow().register_model
    seen: dict[str, Any] = {}

    def watched_register(uri: str, *args: Any, **kwargs: Any) -> Any:
        model_id = uri.removeprefix("models:/")
        seen["files"] = rest.files(model_id) | rest.files(model_id, "triton")
        seen["model"] = rest.get("mlflow/registered-models/get", name=model)[0]
        version = register(uri, *args, **kwargs)
        seen["alias"] = rest.alias(model)[0]
        return version

    monkeypatch.setattr(mlflow(), "register_model", watched_register)
    train_and_register(TrainingRequest(model=model))
    assert {"model.onnx", "triton/golden.json", "MLmodel"} <= seen["files"]
    assert seen["model"] == 404
    assert seen["alias"] == 400
    assert rest.alias(model)[0] == 200


def test_a_second_training_moves_the_alias_and_keeps_the_first_version(rest: Rest, model: str) -> None:
    first = train_and_register(TrainingRequest(model=model))
    second = train_and_register(TrainingRequest(model=model, options={"regularization": 50}))
    assert (first.version, second.version) == (1, 2)
    assert first.onnx_sha256 != second.onnx_sha256
    assert rest.alias(model)[1]["version"] == "2"
    place = rest.place(model, 1).removeprefix("mlflow-artifacts:/")
    kept = rest.download(f"{place}/model.onnx")
    assert hashlib.sha256(kept).hexdigest() == first.onnx_sha256


def test_failed_parity_leaves_a_failed_run_with_its_metrics_and_no_model(rest: Rest, model: str) -> None:
    with pytest.raises(ParityError, match="differs from the trained model") as failure:
        train_and_register(TrainingRequest(model=model, parity_tolerance=1e-12))
    run_id = failure.value.hint.split("run ")[1].split(".")[0]
    run = rest.run(run_id)
    assert run["info"]["status"] == "FAILED"
    assert "parity_max_abs_error" in {m["key"] for m in run["data"]["metrics"]}
    assert "outputs" not in run or not run["outputs"].get("model_outputs")
    assert rest.get("mlflow/registered-models/get", name=model)[0] == 404


def test_without_an_alias_a_version_waits_with_its_held_out_rows_for_a_gate(
    rest: Rest, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", model, "--alias", "", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["version"], result["alias"]) == (1, None)
    assert not rest.get("mlflow/registered-models/get", name=model)[1]["registered_model"].get("aliases")

    run = rest.run(result["run_id"])
    assert run["info"]["status"] == "FINISHED"
    place = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    stored = rest.download(f"{place}/evaluation/heldout.npz")
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags[DIGEST_TAG] == hashlib.sha256(stored).hexdigest(), "by which a gate knows them again"
    held_out = HeldOut.from_bytes(stored)
    assert held_out.task == "classification"
    onnx_file = rest.download(f"{rest.place(model, 1).removeprefix('mlflow-artifacts:/')}/model.onnx")
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], dict(held_out.inputs))
    accuracy = (probabilities.argmax(axis=1) == held_out.target).mean()
    assert accuracy == pytest.approx(result["metrics"]["test_accuracy"])


def test_a_store_that_fails_half_way_leaves_the_alias_where_it_was(
    rest: Rest, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_register(TrainingRequest(model=model))

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow().MlflowClient, "log_model_artifacts", no_space)
    with pytest.raises(RegistryError, match="No space left on device"):
        train_and_register(TrainingRequest(model=model, seed=8))
    assert rest.alias(model)[1]["version"] == "1"
    assert rest.get("mlflow/model-versions/get", name=model, version="2")[0] == 404


def test_an_experiment_stored_directly_on_s3_works_the_same(
    rest: Rest, model: str, tracking_uri: str
) -> None:
    proxied = train_and_register(TrainingRequest(model=model))
    path = rest.place(model, 1).removeprefix("mlflow-artifacts:/")
    bucket = urlsplit(rest.presigned_url(f"{path}/model.onnx")).path.split("/")[1]
    location = f"s3://{bucket}/direct-{model}"
    rest.post("mlflow/experiments/create", {"name": model, "artifact_location": location})

    request = TrainingRequest(model=model, experiment=model)
    direct = registration().publish(train(request), request, tracking_uri)
    assert rest.place(model, 2) == f"{location}/models/{direct.model_id}/artifacts"
    assert rest.files(direct.model_id, "triton") == {"triton/golden.json"}
    assert direct.onnx_sha256 == proxied.onnx_sha256


def test_wrong_keys_for_a_direct_experiment_are_a_clear_error(
    rest: Rest, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"s3://no-such-bucket/{model}"
    made = rest.post("mlflow/experiments/create", {"name": model, "artifact_location": location})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(RegistryError, match="cannot register") as failure:
        train_and_register(TrainingRequest(model=model, experiment=model))
    assert "AWS_SECRET_ACCESS_KEY" in failure.value.hint
    assert rest.get("mlflow/registered-models/get", name=model)[0] == 404
    # Other tests look for experiments whose place is not there.
    rest.post("mlflow/experiments/delete", {"experiment_id": made["experiment_id"]})
