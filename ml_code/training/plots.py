"""Pictures of a training, as PNG files; drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def loss_curves(curves: Mapping[str, Sequence[float]], unit: str) -> bytes:
    """Draws losses by epoch.

    Args:
        curves: The loss of each epoch, by the name of the curve.
        unit: Name and unit of the loss.
    """
    figure, axes = _drawing("Loss by epoch", "epoch", unit)
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name.replace("_", " "))
    axes.set_yscale("log")
    axes.legend()
    return _png(figure)


def confusion_matrix(
    target: npt.NDArray[np.int64], predicted: npt.NDArray[Any], names: Sequence[str]
) -> bytes:
    """Draws how often each class was predicted as each class.

    Args:
        target: Right classes, indices ``[rows]``.
        predicted: Predicted classes, indices ``[rows]``.
        names: The names of the classes, by index.
    """
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (target, predicted), 1)
    figure, axes = _drawing("Confusion matrix, test rows", "predicted", "right")
    axes.imshow(counts, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return _png(figure)


def calibration(target: npt.NDArray[np.int64], probabilities: npt.NDArray[Any]) -> bytes:
    """Draws the share of right predictions over the confidence of the model, in ten bins.

    Args:
        target: Class indices ``[rows]``.
        probabilities: ``[rows, classes]``.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == target
    bins = np.clip((sure * 10).astype(int), 0, 9)
    filled = np.unique(bins)
    figure, axes = _drawing("Calibration, test rows", "mean confidence", "share that was right")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    axes.plot(
        [sure[bins == one].mean() for one in filled],
        [right[bins == one].mean() for one in filled],
        marker="o",
        label="model",
    )
    axes.legend()
    return _png(figure)


def forecast(actual: npt.NDArray[Any], predicted: npt.NDArray[Any], unit: str) -> bytes:
    """Draws a forecast beside the actual values.

    Args:
        actual: ``[steps]``.
        predicted: ``[steps]``, the forecast of each step.
        unit: Unit of both.
    """
    figure, axes = _drawing("One step ahead, test part", "step", unit)
    axes.plot(actual, label="came", linewidth=1)
    axes.plot(predicted, label="forecast", linewidth=1)
    axes.legend()
    return _png(figure)


def _drawing(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    # Without pyplot, which keeps figures and looks for a display.
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
