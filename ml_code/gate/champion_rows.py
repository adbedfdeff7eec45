"""The comparison with the champion's own held-out rows, which the challenger's training could not choose."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..training.heldout import HeldOut
from ..triton_deploy.errors import ArtifactRejected, VerificationFailed
from .measuring import OnnxModel
from .rules import Rules
from .scores import Array, Improvement, Metric

log = logging.getLogger(__name__)


def improvement_on(
    rules: Rules, metric: Metric, theirs: HeldOut | None, challenger: OnnxModel, champion: OnnxModel | None
) -> Improvement | None:
    """Return the challenger's improvement over the champion on the rows that the champion's run holds out.

    The challenger may have been trained on some of these rows, which favours it. A challenger that is
    worse on them all the same is worse.

    Args:
        rules: interval and blocks.
        metric: the deciding metric.
        theirs: the champion's held-out rows; None if its run keeps none.
        challenger: the new model.
        champion: the live version; None before the first release, or if it can't be compared.

    Returns:
        The improvement; None without rows, without a champion, for rows of another task, or if a model
        does not accept the rows.
    """
    if theirs is None or champion is None or theirs.task != metric.task:
        return None
    try:
        before, after = champion.answers(theirs), challenger.answers(theirs)
    except (ArtifactRejected, VerificationFailed) as error:
        log.warning("the two models can't be compared on the champion's rows: %s", error)
        return None
    return rules.improvement(metric, theirs, before, after) if before.shape == after.shape else None


def contradicted_rows(held_out: HeldOut, theirs: HeldOut | None) -> int:
    """Return the number of rows whose inputs the other rows have too, but never with the same target.

    The same inputs may have several targets in one set: a row that agrees with one of them is not
    contradicted.
    """
    if theirs is None or theirs.inputs.keys() != held_out.inputs.keys() or theirs.task != held_out.task:
        return 0
    known: dict[bytes, set[bytes]] = {}
    for inputs, target in _rows(theirs):
        known.setdefault(inputs, set()).add(target)
    return sum(inputs in known and target not in known[inputs] for inputs, target in _rows(held_out))


def shared_rows(held_out: HeldOut, theirs: HeldOut) -> float:
    """Return the fraction of the rows that are among the other rows, by inputs and target, 0 to 1."""
    known = set(_rows(theirs))
    return sum(row in known for row in _rows(held_out)) / held_out.rows


def _rows(held_out: HeldOut) -> list[tuple[bytes, bytes]]:
    """Return the bytes of inputs and target of each row."""
    inputs = [array for _, array in sorted(held_out.inputs.items())]
    return [(_bytes(inputs, row), _bytes([held_out.target], row)) for row in range(held_out.rows)]


def _bytes(arrays: Sequence[Array], row: int) -> bytes:
    return b"".join(np.ascontiguousarray(array[row]).tobytes() for array in arrays)
