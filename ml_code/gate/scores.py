"""Scores of rows, their means, and the interval of an improvement. Pure rules on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..training.heldout import HeldOut, Task

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

SMALLEST_PROBABILITY = 1e-7
"""About the resolution of float32 near 1. It bounds the loss of a row that the model gets surely wrong."""
ECE_BINS = 15
RESAMPLED_AT_ONCE = 2_000_000
"""Row indices held at a time, which bounds the memory of the bootstrap to some tens of MB."""


@dataclass(frozen=True)
class Metric:
    """A metric that is a mean over rows, or a function of such a mean, so that rows can be resampled.

    Attributes:
        name: its name in the rules.
        task: the kind of model that it scores.
        larger_is_better: which direction is an improvement.
        rows: gives the contribution of each row, float64 ``[rows]``, from answers and target (see HeldOut).
        finish: turns the mean of the contributions into the metric.
    """

    name: str
    task: Task
    larger_is_better: bool
    rows: Callable[[Array, Array], Floats]
    finish: Callable[[Floats], Floats] = lambda mean: mean

    def value(self, answers: Array, target: Array) -> float:
        """Return the metric of a model's answers."""
        return float(self.finish(self.rows(answers, target).mean()))

    def gain(self, before: Floats, after: Floats) -> Floats:
        """Return the improvement from ``before`` to ``after``, in the metric's unit; negative if worse."""
        return after - before if self.larger_is_better else before - after


def _log_loss(probabilities: Array, target: Array) -> Floats:
    right = probabilities[np.arange(len(target)), target].astype(np.float64)
    loss: Floats = -np.log(np.clip(right, SMALLEST_PROBABILITY, 1.0))
    return loss


def _brier(probabilities: Array, target: Array) -> Floats:
    error = probabilities.astype(np.float64)
    error[np.arange(len(target)), target] -= 1.0
    brier: Floats = np.square(error).sum(axis=1)
    return brier


def _accuracy(probabilities: Array, target: Array) -> Floats:
    right: Floats = (probabilities.argmax(axis=1) == target).astype(np.float64)
    return right


def _errors(answers: Array, target: Array) -> Floats:
    difference = answers.astype(np.float64) - target.astype(np.float64)
    return difference.reshape(len(target), -1)


def _squared(answers: Array, target: Array) -> Floats:
    squared: Floats = np.square(_errors(answers, target)).mean(axis=1)
    return squared


def _absolute(answers: Array, target: Array) -> Floats:
    absolute: Floats = np.abs(_errors(answers, target)).mean(axis=1)
    return absolute


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("log_loss", "classification", larger_is_better=False, rows=_log_loss),
        Metric("brier", "classification", larger_is_better=False, rows=_brier),
        Metric("accuracy", "classification", larger_is_better=True, rows=_accuracy),
        Metric("rmse", "regression", larger_is_better=False, rows=_squared, finish=np.sqrt),
        Metric("mae", "regression", larger_is_better=False, rows=_absolute),
    )
}


def scores(answers: Array, held_out: HeldOut) -> dict[str, float]:
    """Return every metric of the task, and ``ece`` of a classification.

    Args:
        answers: the scored output, ``[rows, classes]`` or of the target's shape.
        held_out: the rows.
    """
    found = {
        metric.name: metric.value(answers, held_out.target)
        for metric in METRICS.values()
        if metric.task == held_out.task
    }
    if held_out.task == "classification":
        found["ece"] = calibration_error(answers, held_out.target)
    return found


def calibration_error(probabilities: Array, target: Array) -> float:
    """Return the expected calibration error of the most probable class, 0 to 1, over 15 bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599,
        equation 3.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = _accuracy(probabilities, target)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(target))


def constant_answers(held_out: HeldOut, classes: int) -> Array:
    """Return the best answers that ignore the inputs: the frequency of each class, or the mean target.

    They are computed from the held-out target, so a model that is not better has learnt nothing that shows.

    Args:
        held_out: the rows.
        classes: number of columns of ``probabilities``; not used in a regression.
    """
    if held_out.task == "classification":
        frequencies = np.bincount(held_out.target, minlength=classes) / held_out.rows
        return np.broadcast_to(frequencies, (held_out.rows, classes))
    mean = held_out.target.mean(axis=0, dtype=np.float64)
    return np.broadcast_to(mean, held_out.target.shape)


@dataclass(frozen=True)
class Improvement:
    """The challenger's improvement over the champion in units of the metric, with its interval.

    Attributes:
        estimate: on the held-out rows as they are; negative when it is worse.
        low: lower end of the interval.
        high: upper end.
        confidence: of the interval, between 0 and 1.
    """

    estimate: float
    low: float
    high: float
    confidence: float


def improvement(
    metric: Metric,
    champion: Floats,
    challenger: Floats,
    *,
    confidence: float,
    resamples: int,
    block_rows: int,
    seed: int,
) -> Improvement:
    """Return the improvement with a percentile interval from a paired bootstrap.

    Paired: a resample takes the same rows of both models, so the difficulty of a row cancels out. With
    ``block_rows`` above 1 a resample takes runs of consecutive rows; the first row follows the last.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for blocks Politis
    and Romano, A circular block-resampling procedure for stationary data, 1992.

    Args:
        metric: the metric to compare.
        champion: the contribution of each row to the champion's metric, ``[rows]``.
        challenger: the contribution of each row to the challenger's metric, ``[rows]``.
        confidence: of the interval, between 0 and 1.
        resamples: number of resamples.
        block_rows: length of the runs of rows.
        seed: seed of the resamples.
    """
    rows = len(champion)
    block = min(block_rows, rows)
    blocks = -(-rows // block)
    random = np.random.default_rng(seed)
    gains = []
    at_once = max(1, RESAMPLED_AT_ONCE // rows)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        starts = random.integers(rows, size=(count, blocks, 1))
        taken = ((starts + np.arange(block)) % rows).reshape(count, -1)[:, :rows]
        means = (metric.finish(of_rows[taken].mean(axis=1)) for of_rows in (champion, challenger))
        gains.append(metric.gain(*means))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(gains), [tail, 1 - tail])
    whole = (metric.finish(of_rows.mean()) for of_rows in (champion, challenger))
    return Improvement(float(metric.gain(*whole)), float(low), float(high), confidence)
