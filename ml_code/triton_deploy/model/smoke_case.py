"""Smoke cases: inputs with the outputs that a correct candidate returns.

Best is what training logged (``triton/golden.json``). Without it one is made: see derived_case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactRejected, VerificationFailed
from ..rules.datatypes import NUMPY_TYPES
from ..rules.schema import Offer, Schema
from .input_examples import MALFORMED

Array = NDArray[Any]

GOLDEN, INPUT_EXAMPLE, GENERATED = SOURCES = ("golden", "input_example", "generated")
"""The sources of a smoke case's inputs."""

_ASKED_WITH = {
    GOLDEN: "its golden inputs",
    INPUT_EXAMPLE: "MLflow's input example",
    GENERATED: "inputs that were invented, since it was logged without triton/golden.json and without an input example that fits",
}
REAL_INPUTS = (
    "If the model is right on real inputs, log some as a new version: triton/golden.json with inputs and the outputs to expect, "
    "or an input example (input_example of log_model)."
)
HOW_TO_TAKE_RANDOM = (
    "Export it without RandomNormal, Dropout in training mode and the like, or with a seed; or log triton/golden.json with a "
    "tolerance (rtol, atol) that covers its answers."
)
_SAME_RTOL, _SAME_ATOL = 1e-3, 1e-5
"""Two answers of one model to the same inputs that differ by more are random, and no rounding."""


@dataclass(frozen=True)
class SmokeCase:
    """Inputs and the expected outputs.

    Attributes:
        source: one of SOURCES.
        inputs: arrays by input name, batch dimension included.
        outputs: expected arrays by output name.
        rtol: relative tolerance, or None for that of the settings.
        atol: absolute tolerance, or None for that of the settings.
    """

    source: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    rtol: float | None = None
    atol: float | None = None

    def sent(self, offer: Offer) -> dict[str, Array]:
        """Return the inputs in the shapes that clients send.

        Args:
            offer: what the version offers to them.
        """
        ranks = {tensor.name: len(tensor.shape) for tensor in offer.public.inputs}
        return {
            name: array.reshape(*array.shape, 1) if array.ndim < ranks[name] else array
            for name, array in self.inputs.items()
        }

    def to_json(self) -> str:
        """Return the case as KServe v2 JSON with its source and tolerance."""
        tolerance = {
            key: value for key, value in (("rtol", self.rtol), ("atol", self.atol)) if value is not None
        }
        return json.dumps(
            {
                "source": self.source,
                "inputs": _encode(self.inputs),
                "outputs": _encode(self.outputs),
                "tolerance": tolerance,
            }
        )


def parse_case(text: str, schema: Schema, source: str = "golden") -> SmokeCase:
    """Read a smoke case.

    Args:
        text: KServe v2 JSON: ``inputs`` and ``outputs`` as lists of name, datatype, shape and data; an
            optional ``tolerance`` of ``rtol`` and ``atol``.
        schema: the model's inputs and outputs, which the case must fit.
        source: the case's source, unless the text names one.

    Raises:
        ArtifactRejected: the text is not such a JSON, or does not fit the model.
    """
    try:
        data = json.loads(text)
        inputs = {entry["name"]: _decode(entry) for entry in data["inputs"]}
        outputs = {entry["name"]: _decode(entry) for entry in data["outputs"]}
        tolerance = {
            key: float(value) for key, value in data.get("tolerance", {}).items() if key in ("rtol", "atol")
        }
        source = data["source"] if data.get("source") in SOURCES else source
    except MALFORMED as error:
        raise ArtifactRejected(
            f"The golden file is not KServe v2 JSON with inputs and outputs: {type(error).__name__} {error}.",
            hint="Log triton/golden.json again.",
        ) from error
    problems = [
        f"input {tensor.name} is missing"
        for tensor in schema.inputs
        if not tensor.optional and tensor.name not in inputs
    ]
    for role, names, tensors in (("input", inputs, schema.inputs), ("output", outputs, schema.outputs)):
        known = {tensor.name for tensor in tensors}
        problems += [f"{role} {name} is not one of the model's" for name in names if name not in known]
    if problems or not outputs:
        raise ArtifactRejected(
            f"The golden file does not fit the model: {'; '.join(problems) or 'it has no outputs'}.",
            hint="Log triton/golden.json with this model's tensor names.",
        )
    return SmokeCase(source, inputs, outputs, **tolerance)


def told(source: str) -> str:
    """Return the source of a smoke case's inputs, in words for people.

    Args:
        source: one of SOURCES.
    """
    return _ASKED_WITH[source]


def asked_with(case: SmokeCase, error: ArtifactRejected) -> ArtifactRejected:
    """Return the error of a model that failed on a case, with advice that depends on the case's source.

    Args:
        case: the case that the model was asked.
        error: Triton's error.
    """
    if case.source == GOLDEN:
        return error
    return type(error)(
        f"{error.message} It was asked with {_ASKED_WITH[case.source]}.",
        hint=f"{REAL_INPUTS} Else see Triton's log; the model needs repair.",
    )


def largest_error(case: SmokeCase, answers: Mapping[str, Array], *, rtol: float, atol: float) -> float:
    """Compare Triton's outputs with the expected ones of a case.

    Args:
        case: the case; its own tolerances come first.
        answers: arrays by output name, as Triton returned them.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Returns:
        The largest absolute error over all numeric outputs.

    Raises:
        VerificationFailed: an output is missing, has another shape, is not finite where the expected one
            is, or is too far off.
    """
    rtol = rtol if case.rtol is None else case.rtol
    atol = atol if case.atol is None else case.atol
    largest = 0.0
    for name, expected in case.outputs.items():
        if name not in answers:
            raise _wrong(case, f"output {name} is missing")
        answer = answers[name]
        # Clients get a scalar as [1], and with Triton's batching a scalar a row as [N, 1].
        if answer.shape != expected.shape and _trimmed(answer.shape) != _trimmed(expected.shape):
            raise _wrong(
                case, f"output {name} has shape {list(answer.shape)}, expected {list(expected.shape)}"
            )
        answer = answer.reshape(expected.shape)
        if expected.dtype == np.object_:
            if not _same_strings(answer, expected):
                raise _wrong(case, f"output {name} has other strings than expected")
            continue
        error = _errors(answer, expected)
        finite = np.isfinite(error)
        largest = max(largest, float(error[finite].max(initial=0.0)))
        if not np.all(finite):
            raise _wrong(case, f"output {name} has values that are not finite where others are expected")
        if not np.all(error <= _allowed(expected, rtol, atol)):
            raise _wrong(
                case,
                f"output {name} is off by up to {error.max():.3g}, more than rtol {rtol:g} and atol {atol:g} allow",
            )
    return largest


def _same_strings(one: Array, other: Array) -> bool:
    return [_as_bytes(value) for value in one.flat] == [_as_bytes(value) for value in other.flat]


def _errors(answer: Array, expected: Array) -> Array:
    """Return absolute errors, element by element.

    Where a value is not finite the error is 0 if both are the same infinity or both NaN, else not finite.
    """
    got, wanted = answer.astype(np.float64), expected.astype(np.float64)
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.abs(got - wanted))


def _allowed(expected: Array, rtol: float, atol: float) -> Array:
    size = np.abs(np.nan_to_num(expected.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0))
    return np.asarray(atol + rtol * size)


def _off_by(answer: Array, expected: Array, *, rtol: float, atol: float) -> float | None:
    """Return the largest error when it is more than the tolerance, or is not finite; else None."""
    error = _errors(answer, expected)
    if np.all(np.isfinite(error)) and np.all(error <= _allowed(expected, rtol, atol)):
        return None
    return float(error.max(initial=0.0))


def at_random(first: Mapping[str, Array], second: Mapping[str, Array]) -> str:
    """Return how two answers to the same inputs differ, without a full stop; empty when they do not.

    Args:
        first: arrays by output name.
        second: the same of the other answer.
    """
    for name, one in first.items():
        other = second.get(name)
        if other is None or one.shape != other.shape:
            return f"two answers to the same inputs have output {name} in other shapes"
        if one.dtype == np.object_:
            if not _same_strings(one, other):
                return f"two answers to the same inputs have other strings in output {name}"
        elif (off := _off_by(other, one, rtol=_SAME_RTOL, atol=_SAME_ATOL)) is not None:
            return f"two answers to the same inputs differ by up to {off:.3g} in output {name}"
    return ""


def _wrong(case: SmokeCase, what: str) -> VerificationFailed:
    compare = "Compare the model with what was trained; the quarantined directory holds it."
    if case.source == GOLDEN:
        return VerificationFailed(f"The candidate answers wrongly: {what}.", hint=compare)
    return VerificationFailed(
        f"The candidate answers wrongly to {_ASKED_WITH[case.source]}: {what}.",
        hint=f"{REAL_INPUTS} Else compare the model with what was trained; the quarantined directory holds it.",
    )


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _decode(entry: Mapping[str, Any]) -> Array:
    dtype = NUMPY_TYPES[entry["datatype"]]
    data = entry["data"]
    if dtype is np.object_:
        flat = np.array(
            [_as_bytes(value) for value in np.array(data, dtype=np.object_).flat], dtype=np.object_
        )
    else:
        flat = np.array(data, dtype=dtype)
    return flat.reshape([int(size) for size in entry["shape"]])


def _encode(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    names = {np.dtype(dtype): name for name, dtype in NUMPY_TYPES.items()}
    return [
        {
            "name": name,
            "datatype": names[array.dtype],
            "shape": list(array.shape),
            "data": [
                v.decode(errors="replace") if isinstance(v, bytes) else v for v in array.ravel().tolist()
            ],
        }
        for name, array in arrays.items()
    ]
