"""Splits rows into those for training, those for choosing parameters, and those that no model sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_code.training.errors import DataError

TRAIN_FRACTION = 0.6
VALIDATION_FRACTION = 0.2

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of the three parts, ascending; no row is in two of them."""

    train: Rows
    validation: Rows
    test: Rows

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each part, as MLflow's parameters have them."""
        return {f"{part}_rows": len(getattr(self, part)) for part in ("train", "validation", "test")}


def by_content(features: npt.NDArray[Any], seed: int) -> Split:
    """Splits rows 60 : 20 : 20 by a hash of each row and the seed.

    The part of a row follows from the row itself. So equal rows are in one part, and a row keeps its part
    when others are added or reordered. With the same seed, a model that is trained tomorrow on more data
    is compared on rows that today's model was not trained on either.

    Args:
        features: ``[rows, ...]``, without the labels.
        seed: Another seed is another split.
    """
    key = seed.to_bytes(8, "little")
    hashes = (hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in features)
    place = np.array([int.from_bytes(digest, "little") / 2**64 for digest in hashes])
    validation_end = TRAIN_FRACTION + VALIDATION_FRACTION
    train, test = place < TRAIN_FRACTION, place >= validation_end
    return Split(np.flatnonzero(train), np.flatnonzero(~train & ~test), np.flatnonzero(test))


def check_classes(split: Split, labels: npt.NDArray[Any]) -> None:
    """Raises DataError unless there are two classes, and every class has a row in every part.

    Args:
        split: The parts.
        labels: ``[rows]``.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(
            f"there are {len(labels)} rows and not two classes among them",
            "Give rows of at least two classes.",
        )
    for part in ("train", "validation", "test"):
        missing = np.setdiff1d(classes, labels[getattr(split, part)])
        if len(missing):
            few = int(counts[classes == missing[0]][0])
            raise DataError(
                f"too few rows: the {part} part has none of class {missing[0]}, which has {few} of {len(labels)} rows",
                "Give more rows of that class, at least 30 of each, or leave it out; another seed is another split.",
            )


def chronological(steps: int) -> tuple[slice, slice, slice]:
    """Splits a series 60 : 20 : 20 in time: training, validation and test steps, none in two of them.

    Args:
        steps: Length of the series.
    """
    first = int(steps * TRAIN_FRACTION)
    second = int(steps * (TRAIN_FRACTION + VALIDATION_FRACTION))
    return slice(0, first), slice(first, second), slice(second, steps)
