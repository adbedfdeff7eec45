"""Predicts the class of a row of numbers by logistic regression (scikit-learn)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_code.training import plots, split, table
from ml_code.training.errors import DataError
from ml_code.training.heldout import PROBABILITIES_NAME, HeldOut
from ml_code.training.option import option
from ml_code.training.scores import classification_scores
from ml_code.training.trained import TrainedModel
from ml_code.training.trainer import Training

INPUT_NAME = "features"
LABEL_NAME = "label"

# ONNX Runtime 1.12 and later load these: old enough for every Triton image still in use. They are
# limits: skl2onnx declares the lowest opsets that have the operators of the model.
MAX_OPSETS = {"": 17, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the trainer."""

    dataset: str = option(
        "breast_cancer",
        "data set of scikit-learn, unless there is --data",
        choices=("breast_cancer", "digits"),
    )
    data: str = option("", "CSV file instead, a path or s3://bucket/key: one row a line, numbers and a class")
    target: str = option(
        "target", "column of --data with the class, of whatever type; all others are features"
    )
    regularization: float = option(1.0, "L2 penalty (1 / C), larger: simpler", above=0)


@dataclass(frozen=True, slots=True)
class Rows:
    """The data: features ``[rows, n]``, class indices ``[rows]``, the names of the classes."""

    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    classes: list[str]


def train(options: Options, training: Training) -> TrainedModel:
    """Trains on 60 % of the rows, measures on 20 % + 20 %, exports.

    Args:
        options: See Options.
        training: Its seed decides the split.

    Returns:
        A model with the input ``features`` float32 ``[batch, n]``; outputs ``label`` int64 ``[batch]``,
        the index of the class, and ``probabilities`` float32 ``[batch, classes]``.

    Raises:
        DataError: The table can't be read or used, or has too few rows of a class.
    """
    rows = read(options)
    parts = split.by_content(rows.features, training.seed)
    split.check_classes(parts, rows.labels)
    classifier = fit(rows, parts.train, options)
    metrics = {
        name: value
        for part in ("validation", "test")
        for name, value in _scores(classifier, rows, getattr(parts, part), part).items()
    }
    test, target = rows.features[parts.test], rows.labels[parts.test]
    reference = {
        LABEL_NAME: classifier.predict(test),
        PROBABILITIES_NAME: classifier.predict_proba(test),
    }
    return TrainedModel.from_export(
        export(classifier, rows.features.shape[1], len(rows.classes)),
        training,
        # The trained model got these rows as they are; the export gets the float32 that clients send.
        held_out=HeldOut({INPUT_NAME: test.astype(np.float32)}, target, "classification"),
        reference=reference,
        data={"features": rows.features, "labels": rows.labels},
        metrics=metrics,
        params={**parts.counts, "classes": ", ".join(rows.classes)[:500]},
        plots={
            "confusion_matrix": plots.confusion_matrix(target, reference[LABEL_NAME], rows.classes),
            "calibration": plots.calibration(target, reference[PROBABILITIES_NAME]),
        },
    )


def read(options: Options) -> Rows:
    """Reads the user's table, or the data set of scikit-learn; raises DataError."""
    if not options.data:
        load: Callable[..., Any] = getattr(datasets, f"load_{options.dataset}")
        found = load()
        return Rows(found.data, found.target.astype(np.int64), [str(name) for name in found.target_names])
    content = table.read_table(options.data)
    table.need_columns(content, [options.target], options.data)
    names = [name for name in content.columns if name != options.target]
    if not names:
        raise DataError(
            f"{options.data} has no column beside {options.target!r}", "Give columns of features."
        )
    empty = content[options.target].isna()
    if empty.any():
        raise DataError(
            f"{options.data}, column {options.target!r}, row {int(empty.argmax()) + 1}: no class"
            f" ({int(empty.sum())} such rows)",
            "Fill in or remove those rows.",
        )
    classes, labels = np.unique(content[options.target].to_numpy(), return_inverse=True)
    features = table.numbers(content, names, options.data)
    return Rows(features, labels.astype(np.int64), [str(name) for name in classes])


def fit(rows: Rows, train_rows: npt.NDArray[np.intp], options: Options) -> Any:
    """Fits a scaler and a logistic regression to some of the rows."""
    # The scaler is inside: it sees training rows only, and clients send raw features.
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / options.regularization, max_iter=5000)
    )
    return classifier.fit(rows.features[train_rows], rows.labels[train_rows])


def export(classifier: Any, features: int, classes: int) -> bytes:
    """Exports to ONNX; the same classifier gives the same bytes."""
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


def _scores(classifier: Any, rows: Rows, part: npt.NDArray[np.intp], prefix: str) -> dict[str, float]:
    probabilities = classifier.predict_proba(rows.features[part])
    return classification_scores(rows.labels[part], probabilities, prefix)
