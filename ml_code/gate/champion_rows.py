"""The champion's own held-out rows, as a second opinion: whoever chose the challenger's rows did not choose these."""

from __future__ import annotations

import logging

import numpy as np

from ..training.heldout import HeldOut
from ..triton_deploy.errors import ArtifactRejected, VerificationFailed
from .measuring import OnnxModel
from .rules import Rules
from .scores import Improvement, Metric, improvement

log = logging.getLogger(__name__)


def improvement_on(
    rules: Rules, metric: Metric, theirs: HeldOut | None, challenger: OnnxModel, champion: OnnxModel | None
) -> Improvement | None:
    """Return the challenger's improvement over the champion on the rows that the champion's run holds out.

    The challenger may have been trained on some of them, which is in its favour: one that is worse there all the same is worse.

    Args:
        rules: interval and blocks.
        metric: what decides.
        theirs: the rows; None when the run keeps none.
        challenger: the new model.
        champion: what serves; None when nothing does, or when it can't be compared.

    Returns:
        None when there is nothing to compare: no rows, another task, or a model that does not take them.
    """
    if theirs is None or champion is None or theirs.task != metric.task:
        return None
    try:
        answers = [model.answers(theirs) for model in (champion, challenger)]
    except (ArtifactRejected, VerificationFailed) as error:
        log.warning("the two models can't be compared on the champion's rows: %s", error)
        return None
    if answers[0].shape != answers[1].shape:
        return None
    return improvement(
        metric,
        *(metric.rows(given, theirs.target) for given in answers),
        confidence=rules.confidence,
        resamples=rules.resamples,
        block_rows=rules.block_rows,
        seed=rules.seed,
    )


def contradicted_rows(held_out: HeldOut, theirs: HeldOut | None) -> int:
    """Return how many rows have the inputs of a row of the others, and another target than every such row.

    The same inputs may well have several targets in one set: a row that agrees with any of them contradicts nothing.
    """
    if theirs is None or theirs.inputs.keys() != held_out.inputs.keys() or theirs.task != held_out.task:
        return 0
    known: dict[bytes, set[bytes]] = {}
    for inputs, target in zip(_inputs(theirs), _targets(theirs), strict=True):
        known.setdefault(inputs, set()).add(target)
    return sum(
        inputs in known and target not in known[inputs]
        for inputs, target in zip(_inputs(held_out), _targets(held_out), strict=True)
    )


def _inputs(held_out: HeldOut) -> list[bytes]:
    arrays = [array for _, array in sorted(held_out.inputs.items())]
    return [
        b"".join(np.ascontiguousarray(array[row]).tobytes() for array in arrays)
        for row in range(held_out.rows)
    ]


def _targets(held_out: HeldOut) -> list[bytes]:
    return [np.ascontiguousarray(held_out.target[row]).tobytes() for row in range(held_out.rows)]
