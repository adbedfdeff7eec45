"""A trained model with its measurements, and the parity of its ONNX export. Knows nothing of MLflow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime

from ml_code.training.errors import ParityError
from ml_code.training.heldout import HeldOut
from ml_code.training.trainer import Training

Arrays = Mapping[str, npt.NDArray[Any]]

SMALLEST = 1e-3
"""Smallest number to which an error is put in relation."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Distance of the ONNX export from the trained model, over all held-out rows at once and one row alone.

    Args:
        max_abs_error: Largest absolute difference of a number.
        max_rel_error: Largest difference relative to the trained model's number, or to :data:`SMALLEST` if
            that number is smaller: float32 says little about a probability of a billionth.
        max_error: Largest difference that counts: for each number the lesser of both.
        label_agreement: Fraction of equal whole numbers (labels), 0 to 1; 1 when there are none.
        rows: Number of rows compared.
    """

    max_abs_error: float
    max_rel_error: float
    max_error: float
    label_agreement: float
    rows: int

    def holds(self, tolerance: float) -> bool:
        """True if labels agree, and no number differs by more than `tolerance`, absolute or relative."""
        # A NaN compares false: an export that answers NaN does not hold.
        return self.max_error <= tolerance and self.label_agreement == 1.0


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained and exported model, not yet known to MLflow.

    Args:
        onnx: The serialized ONNX file; the first dimension of every input and output is the batch, of any
            size.
        params: Options and findings, for MLflow's parameters.
        metrics: Numbers by name, by convention with ``validation_`` or ``test_`` before it.
        parity: Comparison of the export with the trained model.
        examples: Golden inputs by name, each ``[rows, ...]``, from the held-out rows.
        expected: ONNX Runtime's answers to the examples, by name.
        held_out: All rows that the model has not seen, with their targets.
        data_sha256: Fingerprint of the data, see :func:`fingerprint`.
        curves: Numbers by epoch, by name; for MLflow's metrics with steps.
        plots: PNG files by name, without the suffix.
    """

    onnx: bytes
    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    parity: Parity
    examples: Arrays
    expected: Arrays
    held_out: HeldOut
    data_sha256: str
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def from_export(
        cls,
        onnx: bytes,
        training: Training,
        *,
        held_out: HeldOut,
        reference: Arrays,
        data: Arrays,
        metrics: Mapping[str, float],
        params: Mapping[str, str | int | float] | None = None,
        curves: Mapping[str, Sequence[float]] | None = None,
        plots: Mapping[str, bytes] | None = None,
    ) -> Self:
        """Compares an export with the trained model, and picks the golden rows.

        Args:
            onnx: See the class.
            training: The trainer's input.
            held_out: The test rows.
            reference: The trained model's own answers to ``held_out.inputs``, by output name, every output.
            data: All arrays that were read, by name.
            metrics: See the class.
            params: Findings of the trainer, for example numbers of rows; its options are added later.
            curves: See the class.
            plots: See the class.

        Raises:
            ParityError, ValueError: See :func:`compare`.
        """
        examples = {name: array[: training.golden_rows] for name, array in held_out.inputs.items()}
        return cls(
            onnx=onnx,
            params=params or {},
            metrics=metrics,
            parity=compare(onnx, held_out.inputs, reference),
            examples=examples,
            expected=infer(onnx, examples),
            held_out=held_out,
            data_sha256=fingerprint(data),
            curves=curves or {},
            plots=plots or {},
        )

    @property
    def onnx_sha256(self) -> str:
        """SHA-256 of the ONNX file, in hex."""
        return hashlib.sha256(self.onnx).hexdigest()


def infer(onnx: bytes, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Returns ONNX Runtime's answers, by output name.

    Args:
        onnx: A serialized ONNX file.
        inputs: Every input by name, ``[rows, ...]``.
    """
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def compare(onnx: bytes, inputs: Arrays, reference: Arrays) -> Parity:
    """Compares an export with the trained model's answers, on all rows at once and on the first alone.

    An export with a fixed batch size fails in one of both batches.

    Args:
        onnx: The export.
        inputs: Every input by name, ``[rows, ...]``.
        reference: The trained model's answers to the inputs, by name, every output.

    Raises:
        ParityError: The export can't be run, or not with that number of rows.
        ValueError: The outputs of both differ in name or shape.
    """
    rows = len(next(iter(inputs.values())))
    parities = [
        _difference(_batch(onnx, {k: v[:count] for k, v in inputs.items()}, count), reference, count)
        for count in (rows, 1)
    ]
    # numpy's maximum keeps a NaN; Python's max may lose it.
    abs_errors, rel_errors, errors = (
        float(np.max([getattr(p, name) for p in parities]))
        for name in ("max_abs_error", "max_rel_error", "max_error")
    )
    return Parity(abs_errors, rel_errors, errors, min(p.label_agreement for p in parities), rows)


def _batch(onnx: bytes, inputs: Arrays, count: int) -> Arrays:
    try:
        return infer(onnx, inputs)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception.
        raise ParityError(
            f"the ONNX export fails on a batch of {count}: {error}",
            "Nothing was registered. Export it with a first dimension of any size (dynamic axes), and operators that"
            " ONNX Runtime has.",
        ) from error


def _difference(answered: Arrays, reference: Arrays, count: int) -> Parity:
    if set(answered) != set(reference):
        raise ValueError(f"The export answers {sorted(answered)}, the reference has {sorted(reference)}.")
    absolute, relative, counted, agreement = [0.0], [0.0], [0.0], [1.0]
    for name, array in answered.items():
        expected = np.asarray(reference[name][:count])
        if expected.shape != array.shape:
            raise ValueError(f"The export's {name} has shape {array.shape}, the model's {expected.shape}.")
        if np.issubdtype(array.dtype, np.floating):
            error = np.abs(array - expected.astype(np.float64))
            scaled = error / np.maximum(np.abs(expected), SMALLEST)
            absolute.append(float(error.max()))
            relative.append(float(scaled.max()))
            counted.append(float(np.minimum(error, scaled).max()))
        else:
            agreement.append(float((array == expected).mean()))
    return Parity(
        float(np.max(absolute)), float(np.max(relative)), float(np.max(counted)), min(agreement), count
    )


def fingerprint(data: Arrays) -> str:
    """SHA-256 over arrays: their names, types, shapes and contents; the order of the names does not enter.

    Args:
        data: Arrays of numbers by name.

    Returns:
        The digest in hex.
    """
    digest = hashlib.sha256()
    for name, array in sorted(data.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
