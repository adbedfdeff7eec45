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
from ml_code.training import split
from ml_code.training.errors import InvalidRequestError, ParityError, RegistryError
from ml_code.training.request import TrainingRequest
from ml_code.training.trained import Parity, TrainedModel, compare, infer
from ml_code.training.trainer import train
from tests.support.lazily import lazily
from tests.support.models import times

registration = lazily("ml_code.training.registration")
classifier = lazily("ml_code.training.trainers.classifier")

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
        {"trainer": "forest"},
        {"trainer": "../classifier"},
        {"seed": -1},
        {"seed": 2**32},
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
    assert train(TrainingRequest(options={"regularization": 100})).onnx_sha256 != trained.onnx_sha256


def test_every_process_writes_the_same_bytes(trained: TrainedModel) -> None:
    program = (
        "from ml_code.training.request import TrainingRequest\n"
        "from ml_code.training.trainer import train\n"
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


def test_splits_share_no_row_and_take_their_shares() -> None:
    rows = classifier().read(classifier().Options()).features
    parts = split.by_content(rows, 7)
    contents = [{row.tobytes() for row in rows[part]} for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, contents)) == len(set().union(*contents)) == len(rows) == 569
    shares = [len(part) / len(rows) for part in contents]
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.05)


def test_a_row_stays_in_its_part_when_rows_are_added_repeated_and_reordered() -> None:
    rows = classifier().read(classifier().Options()).features
    before, half = split.by_content(rows, 7), rows[:300]
    grown = np.concatenate([half, half])[::-1]
    after = split.by_content(grown, 7)
    for part in ("train", "validation", "test"):
        was = {rows[row].tobytes() for row in getattr(before, part) if row < 300}
        assert {row.tobytes() for row in grown[getattr(after, part)]} == was
    assert {*split.by_content(rows, 8).test} != {*before.test}


def test_the_scaler_has_seen_training_rows_only() -> None:
    rows = classifier().read(classifier().Options())
    parts = split.by_content(rows.features, 7)
    scaler = classifier().fit(rows, parts.train, classifier().Options())[0]
    np.testing.assert_allclose(scaler.mean_, rows.features[parts.train].mean(axis=0))


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
    model = onnx.load_model_from_string(train(TrainingRequest(options={"dataset": dataset})).onnx)
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
    assert all(version <= classifier().MAX_OPSETS[domain] for domain, version in opsets.items())
    assert model.ir_version <= 8  # what ONNX Runtime 1.12 loads


@pytest.mark.parametrize("rows", [1, 17])
def test_the_file_answers_batches_of_any_size(trained: TrainedModel, rows: int) -> None:
    batch = np.repeat(trained.examples["features"][:1], rows, axis=0)
    answer = infer(trained.onnx, {"features": batch})
    assert answer["label"].shape == (rows,)
    assert answer["probabilities"].shape == (rows, 2)


def test_parity_is_measured_on_all_held_out_rows_and_holds(trained: TrainedModel) -> None:
    assert trained.parity.rows == trained.held_out.rows == trained.params["test_rows"]
    assert 0 < trained.parity.max_abs_error < 1e-5
    assert trained.parity.holds(1e-4)
    assert not trained.parity.holds(1e-12)


def test_parity_does_not_hold_for_the_export_of_another_model(trained: TrainedModel) -> None:
    inputs = trained.held_out.inputs
    reference = infer(train(TrainingRequest(options={"regularization": 1000})).onnx, inputs)
    assert not compare(trained.onnx, inputs, reference).holds(1e-4)
    assert compare(trained.onnx, inputs, infer(trained.onnx, inputs)).holds(1e-6)


@pytest.mark.parametrize(
    "parity",
    [Parity(math.nan, math.nan, math.nan, 1.0, 9), Parity(0.0, 0.0, 0.0, 0.99, 9), Parity(9, 9, 2e-4, 1, 9)],
    ids=repr,
)
def test_parity_does_not_hold_for_nan_or_one_wrong_label(parity: Parity) -> None:
    assert not parity.holds(1e-4)


def test_numbers_may_differ_absolutely_or_relatively_but_a_nan_never_holds() -> None:
    model = times(1.0).SerializeToString()
    rows = np.array([[1e-9, 1e6], [1.0, 1e6]], np.float32)
    near = compare(model, {"x": rows}, {"y": rows + np.array([2e-6, 2.0])})
    assert near.max_abs_error == pytest.approx(2)
    assert near.max_rel_error == pytest.approx(2e-3)
    assert near.max_error == pytest.approx(2e-6, rel=1e-2)
    assert not compare(model, {"x": rows}, {"y": np.where(rows == 1, np.nan, rows)}).holds(1)
    with pytest.raises(ValueError, match="reference has \\['z'\\]"):
        compare(model, {"x": rows}, {"z": rows})
    with pytest.raises(ValueError, match="has shape"):
        compare(model, {"x": rows}, {"y": rows[:, :1]})


def test_golden_document_is_what_the_file_answers_to_held_out_rows(trained: TrainedModel) -> None:
    document = json.loads(json.dumps(registration().golden_document(trained.examples, trained.expected)))
    tensors = {t["name"]: t for t in (*document["inputs"], *document["outputs"])}
    kinds = {name: (t["datatype"], t["shape"]) for name, t in tensors.items()}
    assert kinds == {
        "features": ("FP32", [5, 30]),
        "label": ("INT64", [5]),
        "probabilities": ("FP32", [5, 2]),
    }
    assert document["tolerance"] == {"rtol": 1e-4, "atol": 1e-5}
    features = np.array(tensors["features"]["data"], np.float32).reshape(5, 30)
    np.testing.assert_array_equal(features, trained.held_out.inputs["features"][:5])
    answer = infer(trained.onnx, {"features": features})
    assert answer["label"].tolist() == tensors["label"]["data"]
    np.testing.assert_array_equal(
        answer["probabilities"].ravel(), np.array(tensors["probabilities"]["data"], np.float32)
    )


def test_an_export_that_takes_batches_of_one_size_only_is_no_export() -> None:
    model = times(1.0)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    rows = np.ones((3, 2), np.float32)
    with pytest.raises(ParityError, match="fails on a batch of 1: ") as refusal:
        compare(model.SerializeToString(), {"x": rows}, {"y": rows})
    assert "first dimension" in refusal.value.hint


@pytest.mark.parametrize("uri", ["", "localhost:5000", "sqlite:///mlflow.db", "./mlruns"])
def test_a_tracking_uri_that_is_no_server_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"MLFLOW_TRACKING_URI|tracking URI"):
        registration().select_experiment(uri, "training")


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
        registration().select_experiment(NOBODY_LISTENS, "training")
    assert time.monotonic() - started < 10
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"


@pytest.mark.usefixtures("retries_unset")
def test_a_password_in_mlflows_address_is_used_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client prints the address it was given, in links to the run."""
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "another")
    address = NOBODY_LISTENS.replace("://", "://me:s3cret%40word@")
    with pytest.raises(RegistryError, match=NOBODY_LISTENS) as refusal:
        registration().select_experiment(address, "training")
    assert "s3cret" not in str(refusal.value)
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == (
        "me",
        "s3cret@word",
    )
    assert mlflow.get_tracking_uri() == NOBODY_LISTENS
    with pytest.raises(InvalidRequestError) as wrong:
        registration().select_experiment("http://me:s3cret/word@mlflow", "training")
    assert "s3cret" not in f"{wrong.value} {wrong.value.hint}"


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


HEAVY = ("mlflow", "sklearn", "onnx", "numpy", "torch", "pandas")


def printed_by(*statements: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", "\n".join(("import sys", *statements))],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_help_imports_nothing_slow_and_names_every_trainer_and_exit_code() -> None:
    printed = printed_by(
        "from ml_code.train_model import main",
        "try: main(['--help'])",
        "except SystemExit: pass",
        f"print([m for m in {HEAVY} if m in sys.modules])",
    )
    assert printed.endswith("[]\n")
    text = " ".join(printed.split())
    for line in (
        "classifier Predicts the class of a row of numbers by logistic regression (scikit-learn).",
        "cnn Recognizes handwritten digits",
        "lstm Forecasts the next prices",
        " 0 registered",
        " 3 MLflow",
        " 4 the ONNX export",
        " 5 the data",
    ):
        assert line in text


def test_help_of_a_trainer_names_its_own_options_with_their_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        train_model.main(["--trainer", "classifier", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--regularization REGULARIZATION L2 penalty (1 / C), larger: simpler (default: 1.0)" in text
    assert "--dataset {breast_cancer,digits}" in text
    assert "--window" not in text


def test_a_trainer_without_its_library_says_what_to_install_and_the_others_work() -> None:
    printed = printed_by(
        "class Missing:",
        "    def find_spec(name, path=None, target=None):",
        "        if name == 'torch': raise ModuleNotFoundError('No module named torch', name='torch')",
        "sys.meta_path.insert(0, Missing)",
        "from ml_code import train_model",
        "sys.stderr = sys.stdout",
        "print(train_model.main(['--trainer', 'lstm', '--tracking-uri', 'http://127.0.0.1:1']))",
        "from ml_code.training.request import TrainingRequest",
        "from ml_code.training.trainer import train",
        "print(train(TrainingRequest()).metrics['test_accuracy'] > 0.9)",
    )
    assert "the trainer 'lstm' needs torch, which is not installed\nhint: Install it: 'make torch'" in printed
    assert printed.endswith("2\nTrue\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": "red"}, "has no option 'colour'"),
        ({"dataset": "iris"}, "dataset 'iris' is unknown"),
        ({"regularization": 0}, "regularization 0.0 is out of range"),
        ({"regularization": math.nan}, "is not a number"),
        ({"regularization": "much"}, "is not a number"),
        ({"regularization": True}, "is not a number"),
        ({"target": 3}, "target 3 is not text"),
        ({"target": None}, "target None is not text"),
    ],
    ids=repr,
)
def test_options_that_a_trainer_does_not_have_or_take_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        train(TrainingRequest(options=options))
    assert says in str(refusal.value)
    assert refusal.value.hint


def test_options_may_be_text_as_a_form_sends_them(trained: TrainedModel) -> None:
    assert train(TrainingRequest(options={"regularization": "1"})).onnx == trained.onnx
