"""Trains a scikit-learn classifier and exports it to ONNX; knows nothing of MLflow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import sklearn
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_code.training.heldout import PROBABILITIES_NAME, HeldOut
from ml_code.training.request import TrainingRequest

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

INPUT_NAME = "features"
LABEL_NAME = "label"

# ONNX Runtime 1.12 and later load these: old enough for every Triton image still in use. They are
# limits: skl2onnx declares the lowest opsets that have the operators of the model.
MAX_OPSETS = {"": 17, "ai.onnx.ml": 3}

HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the ONNX export is from the model it came from, over all held-out rows.

    Args:
        max_abs_error: Largest absolute difference of a probability.
        label_agreement: Fraction of rows with the same label, 0 to 1.
        rows: Number of rows compared.
    """

    max_abs_error: float
    label_agreement: float
    rows: int

    def holds(self, tolerance: float) -> bool:
        """True if every label agrees and no probability differs by more than `tolerance`."""
        # A NaN compares false: an export that answers NaN does not hold.
        return self.max_abs_error <= tolerance and self.label_agreement == 1.0


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained and exported model, not yet known to MLflow.

    Args:
        onnx: The serialized ONNX file. Input ``features`` float32 ``[batch, n]``; outputs
            ``label`` int64 ``[batch]`` and ``probabilities`` float32 ``[batch, classes]``.
        params: What was set, for MLflow's parameters.
        metrics: Accuracy, macro F1 and log loss on ``validation_`` and ``test_`` rows.
        parity: Comparison of the export with the trained model.
        examples: Golden inputs by name, each ``[rows, ...]``, from the test rows.
        expected: What ONNX Runtime answers to them, by name.
        held_out: All test rows, with what is right for them.
    """

    onnx: bytes
    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    parity: Parity
    examples: Mapping[str, npt.NDArray[Any]]
    expected: Mapping[str, npt.NDArray[Any]]
    held_out: HeldOut

    @property
    def onnx_sha256(self) -> str:
        """SHA-256 of the ONNX file, in hex."""
        return hashlib.sha256(self.onnx).hexdigest()


def train(request: TrainingRequest) -> TrainedModel:
    """Trains on 60 % of the data, measures on 20 % + 20 %, exports to ONNX and compares.

    The same request gives the same ONNX bytes on the same machine and library versions.

    Args:
        request: What to train.

    Returns:
        The export with its metrics, parity and golden rows, whether or not parity holds.
    """
    split = _split(request)
    classifier = _fit(split, request)
    metrics = {
        **_scores(classifier, split.validation, "validation"),
        **_scores(classifier, split.test, "test"),
    }
    classes = len(classifier.classes_)
    onnx_bytes = _export(classifier, split.train[0].shape[1], classes)
    rows = np.concatenate([split.validation[0], split.test[0]])
    held_out = HeldOut(
        {INPUT_NAME: split.test[0].astype(np.float32)},
        np.searchsorted(classifier.classes_, split.test[1]),
        "classification",
    )
    examples = {INPUT_NAME: held_out.inputs[INPUT_NAME][: request.golden_rows]}
    return TrainedModel(
        onnx=onnx_bytes,
        params={
            "dataset": request.dataset,
            "seed": request.seed,
            "regularization": request.regularization,
            "train_rows": len(split.train[0]),
            "validation_rows": len(split.validation[0]),
            "test_rows": len(split.test[0]),
            "sklearn_version": sklearn.__version__,
        },
        metrics=metrics,
        parity=_compare(classifier, onnx_bytes, rows),
        examples=examples,
        expected=_infer(onnx_bytes, examples),
        held_out=held_out,
    )


@dataclass(frozen=True, slots=True)
class _Split:
    train: tuple[Floats, Labels]
    validation: tuple[Floats, Labels]
    test: tuple[Floats, Labels]


def _split(request: TrainingRequest) -> _Split:
    load: Callable[..., tuple[Floats, Labels]] = getattr(datasets, f"load_{request.dataset}")
    features, labels = load(return_X_y=True)

    def cut(x: Floats, y: Labels, rows: int) -> list[Any]:
        split: list[Any] = train_test_split(x, y, test_size=rows, stratify=y, random_state=request.seed)
        return split

    held_out = round(len(labels) * HELD_OUT_FRACTION)
    rest_x, test_x, rest_y, test_y = cut(features, labels, held_out)
    train_x, validation_x, train_y, validation_y = cut(rest_x, rest_y, held_out)
    return _Split((train_x, train_y), (validation_x, validation_y), (test_x, test_y))


def _fit(split: _Split, request: TrainingRequest) -> Any:
    # The scaler is inside: it sees training rows only, and clients send raw features.
    classifier = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=1 / request.regularization, max_iter=5000, random_state=request.seed),
    )
    return classifier.fit(*split.train)


def _scores(classifier: Any, rows: tuple[Floats, Labels], prefix: str) -> dict[str, float]:
    features, labels = rows
    predicted = classifier.predict(features)
    return {
        f"{prefix}_accuracy": float(accuracy_score(labels, predicted)),
        f"{prefix}_f1": float(f1_score(labels, predicted, average="macro")),
        f"{prefix}_log_loss": float(log_loss(labels, classifier.predict_proba(features))),
    }


def _export(classifier: Any, features: int, classes: int) -> bytes:
    exported = convert_sklearn(
        classifier,
        # Without a name the graph gets a random one, and the same model another digest.
        name="classifier",
        initial_types=[(INPUT_NAME, FloatTensorType([None, features]))],
        final_types=[
            (LABEL_NAME, Int64TensorType([None])),
            (PROBABILITIES_NAME, FloatTensorType([None, classes])),
        ],
        options={"zipmap": False},
        target_opset=MAX_OPSETS,
    )
    # skl2onnx takes them from a set of strings, whose order changes from process to process.
    opsets = sorted(exported.opset_import, key=lambda opset: str(opset.domain))
    del exported.opset_import[:]
    exported.opset_import.extend(opsets)
    for value in (*exported.graph.input, *exported.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    serialized: bytes = exported.SerializeToString(deterministic=True)
    return serialized


def _compare(classifier: Any, onnx_bytes: bytes, rows: Floats) -> Parity:
    """The trained model on the rows as they are, the export on the float32 that clients send."""
    answered = _infer(onnx_bytes, {INPUT_NAME: rows.astype(np.float32)})
    error = np.abs(answered[PROBABILITIES_NAME] - classifier.predict_proba(rows))
    agreement = answered[LABEL_NAME] == classifier.predict(rows)
    return Parity(float(error.max()), float(agreement.mean()), len(rows))


def _infer(onnx_bytes: bytes, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
