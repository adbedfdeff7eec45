"""Scores of a classifier's probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, f1_score, log_loss


def classification_scores(
    target: npt.NDArray[np.int64], probabilities: npt.NDArray[Any], prefix: str
) -> dict[str, float]:
    """Returns accuracy, macro F1 and log loss (nats), by name.

    Args:
        target: Class indices ``[rows]``.
        probabilities: ``[rows, classes]``.
        prefix: Beginning of each name, before an underscore.
    """
    predicted = probabilities.argmax(axis=1)
    # A row of float32 probabilities adds up to 1 less closely than scikit-learn wants in double precision.
    shares = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    return {
        f"{prefix}_accuracy": float(accuracy_score(target, predicted)),
        f"{prefix}_f1": float(f1_score(target, predicted, average="macro")),
        f"{prefix}_log_loss": float(log_loss(target, shares, labels=np.arange(probabilities.shape[1]))),
    }
