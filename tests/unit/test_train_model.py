"""Training, export and parity, without a server."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ml_code import train_model
from ml_code.training import classifier
from ml_code.training.classifier import Parity, TrainedModel, train
from ml_code.training.registration import golden_document, select_experiment
from ml_code.training.request import (
    InvalidRequestError,
    ParityError,
    RegistryError,
    TrainingRequest,
)

REPOSITORY = Path(__file__).parents[2]
NOBODY_LISTENS = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train(TrainingRequest())


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "../x"},
        {"model": ""},
        {"model": "best model"},
        {"model": "best_model\n"},
        {"alias": "latest"},
        {"alias": "Latest"},
        {"alias": "v12"},
        {"alias": "a/b"},
        {"experiment": " "},
        {"dataset": "iris"},
        {"seed": -1},
        {"seed": 2**32},
        {"regularization": 0.0},
        {"regularization": math.nan},
        {"parity_tolerance": -1.0},
        {"parity_tolerance": math.inf},
        {"golden_rows": 0},
        {"golden_rows": 65},
    ],
    ids=repr,
)
def test_a_bad_request_is_refused_before_anything_runs(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        TrainingRequest(**bad)
    assert refusal.value.hint


def test_the_same_request_gives_the_same_file_and_another_seed_another(
    trained: TrainedModel,
) -> None:
    assert train(TrainingRequest()).onnx == trained.onnx
    assert train(TrainingRequest(seed=8)).onnx_sha256 != trained.onnx_sha256
    assert train(TrainingRequest(regularization=100)).onnx_sha256 != trained.onnx_sha256


def test_every_process_writes_the_same_bytes(trained: TrainedModel) -> None:
    program = (
        "from ml_code.training.classifier import train\n"
        "from ml_code.training.request import TrainingRequest\n"
        "print(train(TrainingRequest()).onnx_sha256)"
    )
    # Two seeds for which skl2onnx's set of opsets comes in different orders.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1")
    ]
    digests = {process.communicate()[0].strip() for process in processes}
    assert digests == {trained.onnx_sha256}


def test_splits_share_no_row_and_keep_the_proportions_of_the_classes() -> None:
    split = classifier._split(TrainingRequest())
    rows = [{row.tobytes() for row in part[0]} for part in (split.train, split.validation)]
    test_rows = {row.tobytes() for row in split.test[0]}
    assert rows[0].isdisjoint(rows[1])
    assert test_rows.isdisjoint(rows[0] | rows[1])
    assert sum(map(len, rows)) + len(test_rows) == 569
    shares = [part[1].mean() for part in (split.train, split.validation, split.test)]
    assert max(shares) - min(shares) < 0.01


def test_the_scaler_has_seen_training_rows_only() -> None:
    request = TrainingRequest()
    split = classifier._split(request)
    scaler = classifier._fit(split, request)[0]
    np.testing.assert_allclose(scaler.mean_, split.train[0].mean(axis=0))


def test_metrics_cover_validation_and_test_and_are_those_of_a_working_model(
    trained: TrainedModel,
) -> None:
    names = {f"{part}_{m}" for part in ("validation", "test") for m in ("accuracy", "f1")}
    losses = {"validation_log_loss", "test_log_loss"}
    assert set(trained.metrics) == names | losses
    assert all(0.9 < trained.metrics[name] <= 1 for name in names)
    assert all(0 < trained.metrics[name] < 0.2 for name in losses)


@pytest.mark.parametrize(("dataset", "features", "classes"), [("breast_cancer", 30, 2), ("digits", 64, 10)])
def test_the_file_has_the_names_types_and_shapes_that_clients_rely_on(
    dataset: str, features: int, classes: int
) -> None:
    model = onnx.load_model_from_string(train(TrainingRequest(dataset=dataset)).onnx)
    onnx.checker.check_model(model, full_check=True)

    def interface(values: Any) -> list[tuple[str, int, list[Any]]]:
        types = [(v.name, v.type.tensor_type) for v in values]
        return [(name, t.elem_type, [d.dim_param or d.dim_value for d in t.shape.dim]) for name, t in types]

    assert interface(model.graph.input) == [("features", onnx.TensorProto.FLOAT, ["batch", features])]
    assert interface(model.graph.output) == [
        ("label", onnx.TensorProto.INT64, ["batch"]),
        ("probabilities", onnx.TensorProto.FLOAT, ["batch", classes]),
    ]
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    assert set(opsets) == {"", "ai.onnx.ml"}
    assert all(version <= classifier.MAX_OPSETS[domain] for domain, version in opsets.items())
    assert model.ir_version <= 8  # what ONNX Runtime 1.12 loads


@pytest.mark.parametrize("rows", [1, 17])
def test_the_file_answers_batches_of_any_size(trained: TrainedModel, rows: int) -> None:
    batch = np.repeat(trained.examples["features"][:1], rows, axis=0)
    answer = classifier._infer(trained.onnx, {"features": batch})
    assert answer["label"].shape == (rows,)
    assert answer["probabilities"].shape == (rows, 2)


def test_parity_is_measured_on_all_held_out_rows_and_holds(trained: TrainedModel) -> None:
    assert trained.parity.rows == 228
    assert 0 < trained.parity.max_abs_error < 1e-5
    assert trained.parity.holds(1e-4)
    assert not trained.parity.holds(1e-12)


def test_parity_does_not_hold_for_the_export_of_another_model(trained: TrainedModel) -> None:
    request = TrainingRequest(regularization=1000)
    split = classifier._split(request)
    parity = classifier._compare(classifier._fit(split, request), trained.onnx, split.test[0])
    assert not parity.holds(1e-4)


@pytest.mark.parametrize("parity", [Parity(math.nan, 1.0, 9), Parity(0.0, 0.99, 9)], ids=repr)
def test_parity_does_not_hold_for_nan_or_one_wrong_label(parity: Parity) -> None:
    assert not parity.holds(1e-4)


def test_golden_document_is_what_the_file_answers_to_held_out_rows(trained: TrainedModel) -> None:
    document = json.loads(json.dumps(golden_document(trained.examples, trained.expected)))
    tensors = {t["name"]: t for t in (*document["inputs"], *document["outputs"])}
    kinds = {name: (t["datatype"], t["shape"]) for name, t in tensors.items()}
    assert kinds == {
        "features": ("FP32", [5, 30]),
        "label": ("INT64", [5]),
        "probabilities": ("FP32", [5, 2]),
    }
    assert document["tolerance"] == {"rtol": 1e-4, "atol": 1e-5}
    features = np.array(tensors["features"]["data"], np.float32).reshape(5, 30)
    held_out = classifier._split(TrainingRequest()).test[0]
    np.testing.assert_array_equal(features, held_out[:5].astype(np.float32))
    answer = classifier._infer(trained.onnx, {"features": features})
    assert answer["label"].tolist() == tensors["label"]["data"]
    np.testing.assert_array_equal(
        answer["probabilities"].ravel(), np.array(tensors["probabilities"]["data"], np.float32)
    )


@pytest.mark.parametrize("uri", ["", "localhost:5000", "sqlite:///mlflow.db", "./mlruns"])
def test_a_tracking_uri_that_is_no_server_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"MLFLOW_TRACKING_URI|tracking URI"):
        select_experiment(uri, "training")


@pytest.fixture
def retries_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_RETRIES", "TIMEOUT", "BACKOFF_FACTOR"):
        # Set first: what the code then puts into os.environ is undone at the end.
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "")
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")


@pytest.mark.usefixtures("retries_unset")
def test_retries_of_the_client_are_bounded_unless_the_user_sets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started = time.monotonic()
    with pytest.raises(RegistryError, match=NOBODY_LISTENS):
        select_experiment(NOBODY_LISTENS, "training")
    assert time.monotonic() - started < 10
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"


def test_command_line_says_what_is_wrong_and_exits_with_the_code_of_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train_model.main([]) == 2
    assert "MLFLOW_TRACKING_URI is not set" in capsys.readouterr().err
    assert train_model.main(["--alias", "v12"]) == 2
    assert "'v12' is not a valid alias" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert train_model.main(["--tracking-uri", NOBODY_LISTENS]) == 3
    printed = capsys.readouterr()
    assert "hint:" in printed.err
    assert printed.out == ""


def test_command_line_exits_with_4_when_parity_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differs(*_: object) -> None:
        raise ParityError("the ONNX export differs", "Look at it.")

    monkeypatch.setattr(train_model, "train_and_register", differs)
    assert train_model.main([]) == 4
    assert capsys.readouterr().err == "error: the ONNX export differs\nhint: Look at it.\n"


def test_help_imports_nothing_slow_and_names_every_exit_code() -> None:
    program = (
        "import sys\n"
        "from ml_code.train_model import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('mlflow', 'sklearn', 'onnx', 'numpy') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert printed.endswith("[]\n")
    text = " ".join(printed.split())
    assert "exit codes: 0 registered; 2 an" in text
    assert " 3 MLflow" in text
    assert " 4 the ONNX export" in text
