"""The rows that a model never saw in training, as a run keeps them; the gate compares models on them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

Task = Literal["classification", "regression"]

ARTIFACT_PATH = "evaluation/heldout.npz"
"""Path of the rows below the run's artifact root."""

DIGEST_TAG = "triton_deploy.heldout_digest"
"""Tag of the run in which training records the sha256 of that file, in hex."""

PROBABILITIES_NAME = "probabilities"
"""Output that is scored in classification, float32 ``[rows, classes]``."""

_INPUT = "input:"
_TARGET = "target"
_TASK = "task"
_DAMAGES = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


class HeldOutError(ValueError):
    """The rows contradict each other, or the bytes are no held-out set; the text says which."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows that no training step and no choice of parameters has seen, with their targets.

    Args:
        inputs: The model's inputs by name, each ``[rows, ...]`` as clients send it (unscaled).
        target: The right answers. Classification: int64 ``[rows]``, indices into the columns of the scored
            output ``probabilities`` ``[rows, classes]``. Regression: float32 ``[rows, ...]`` of the shape
            and unit of the model's first output.
        task: The kind of target.

    Raises:
        HeldOutError: No rows or no input, differing numbers of rows, a wrong type, or a target that is not
            finite or is negative.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    target: npt.NDArray[Any]
    task: Task

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise HeldOutError(f"The task {self.task!r} is none of {', '.join(get_args(Task))}.")
        rows = {name: array.shape[:1] for name, array in {**self.inputs, _TARGET: self.target}.items()}
        if not self.inputs or len(set(rows.values())) != 1 or rows[_TARGET] in {(), (0,)}:
            raise HeldOutError(f"Inputs and target need the same number of rows, at least 1: {rows}.")
        if self.task == "classification":
            if self.target.dtype != np.int64 or self.target.ndim != 1 or self.target.min() < 0:
                raise HeldOutError("The target of a classification is int64 [rows], class indices from 0.")
        elif self.target.dtype != np.float32 or not np.isfinite(self.target).all():
            raise HeldOutError("The target of a regression is float32, and finite.")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.target)

    def to_bytes(self) -> bytes:
        """The rows as a compressed ``.npz``; the same rows give the same bytes."""
        arrays = {_INPUT + name: array for name, array in sorted(self.inputs.items())}
        buffer = io.BytesIO()
        # numpy stamps its entries 1980-01-01, so the bytes do not depend on the time.
        np.savez_compressed(
            buffer, allow_pickle=False, **arrays, target=self.target, task=np.array(self.task)
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a file of :meth:`to_bytes`; executes no code from the file, so its writer need not be trusted.

        Args:
            content: The file.

        Raises:
            HeldOutError: The file is damaged, is something else, or its rows contradict each other.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                inputs = {
                    name.removeprefix(_INPUT): arrays[name] for name in arrays if name.startswith(_INPUT)
                }
                target, task = arrays[_TARGET], str(arrays[_TASK])
        # The exceptions of numpy, zipfile and zlib for bytes that are no such file.
        except _DAMAGES as error:
            raise HeldOutError(f"This is no held-out set: {type(error).__name__}: {error}") from error
        return cls(inputs, target, task)  # type: ignore[arg-type]  # checked by the class
