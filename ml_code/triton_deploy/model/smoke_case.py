"""Smoke cases: inputs with the outputs that a correct candidate returns.

The best case is the one that training logged (``triton/golden.json``). Without it, ONNX Runtime runs the
model once in a process of its own, on MLflow's input example or on inputs generated from the schema.
Triton's outputs are compared with those of that run.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactRejected, VerificationFailed
from ..rules.datatypes import NUMPY_TYPES
from ..rules.schema import Schema, Tensor
from .input_examples import MALFORMED, DoesNotFit, example_inputs
from .reference import Limits, ModelFailed, ModelProcess

Array = NDArray[Any]

MOST_GENERATED = 10_000_000
"""Most elements of all generated inputs together."""
HOW_TO_LOG = "Log golden inputs and outputs (triton/golden.json) with the model"

GOLDEN, INPUT_EXAMPLE, GENERATED = SOURCES = ("golden", "input_example", "generated")
"""The sources of a smoke case's inputs."""

_ASKED_WITH = {
    GOLDEN: "its golden inputs",
    INPUT_EXAMPLE: "MLflow's input example",
    GENERATED: "inputs that were invented, since it was logged without triton/golden.json and without an input example that fits",
}
_REAL_INPUTS = (
    "If the model is right on real inputs, log some as a new version: triton/golden.json with inputs and the outputs to expect, "
    "or an input example (input_example of log_model)."
)

log = logging.getLogger(__name__)


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


def derive_case(
    model_file: Path, schema: Schema, serving_example: str | None, limits: Limits | None = None
) -> SmokeCase:
    """Make a smoke case for a model that was logged without one: run the model once, in a process of its own.

    Args:
        model_file: the ``model.onnx``, external data beside it.
        schema: the model's inputs and outputs.
        serving_example: MLflow's ``serving_input_example.json``, if there is one.
        limits: limits of the model; by default those of the settings' defaults.

    Raises:
        ArtifactRejected: ONNX Runtime can't load or run the model within the limits, or no inputs can be
            made for it.
        Unavailable: the process can't be started, or another process ended it.
    """
    source, inputs = _inputs(schema, serving_example)
    with _loaded(model_file, limits or Limits()) as model:
        try:
            return SmokeCase(source, inputs, model.run(inputs))
        except ModelFailed as failed:
            first = (
                f"{_REAL_INPUTS} Else repair it." if source == GENERATED else f"{HOW_TO_LOG}, or repair it."
            )
            raise ArtifactRejected(
                f"ONNX Runtime can't run the model on {_ASKED_WITH[source]}: {failed.what}.",
                hint=failed.advice(first),
            ) from failed


def _loaded(model_file: Path, limits: Limits) -> ModelProcess:
    try:
        return ModelProcess(model_file, limits)
    except ModelFailed as failed:
        raise ArtifactRejected(
            f"ONNX Runtime can't load the model: {failed.what}.",
            hint=failed.advice(f"{HOW_TO_LOG}, or repair it."),
        ) from failed


def _inputs(schema: Schema, serving_example: str | None) -> tuple[str, dict[str, Array]]:
    """Return the source and the inputs for a model that was logged without golden inputs."""
    if serving_example is not None:
        try:
            return INPUT_EXAMPLE, example_inputs(serving_example, schema)
        except DoesNotFit as why:
            log.warning(
                "the input example that MLflow keeps with the model is not used: %s. Inputs are invented instead; log an example of the "
                "model's own tensors, or triton/golden.json",
                why,
            )
    return GENERATED, _generated(schema)


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
        hint=f"{_REAL_INPUTS} Else see Triton's log; the model needs repair.",
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
        VerificationFailed: an output is missing, has another shape, is not finite, or is too far off.
    """
    rtol = rtol if case.rtol is None else case.rtol
    atol = atol if case.atol is None else case.atol
    largest = 0.0
    for name, expected in case.outputs.items():
        if name not in answers:
            raise _wrong(case, f"output {name} is missing")
        answer = answers[name]
        # With Triton's batching, one scalar a row has the shape [N, 1].
        if answer.shape != expected.shape and _trimmed(answer.shape) != _trimmed(expected.shape):
            raise _wrong(
                case, f"output {name} has shape {list(answer.shape)}, expected {list(expected.shape)}"
            )
        answer = answer.reshape(expected.shape)
        if expected.dtype == np.object_:
            if [_as_bytes(value) for value in answer.flat] != [_as_bytes(value) for value in expected.flat]:
                raise _wrong(case, f"output {name} has other strings than expected")
            continue
        if not np.all(np.isfinite(answer.astype(np.float64))):
            raise _wrong(case, f"output {name} has values that are not finite")
        error = np.abs(answer.astype(np.float64) - expected.astype(np.float64))
        largest = max(largest, float(error.max(initial=0.0)))
        # The comparison is written so that an expected value that is not finite fails too.
        if not np.all(error <= atol + rtol * np.abs(expected.astype(np.float64))):
            raise _wrong(
                case,
                f"output {name} is off by up to {error.max():.3g}, more than rtol {rtol:g} and atol {atol:g} allow",
            )
    return largest


def _wrong(case: SmokeCase, what: str) -> VerificationFailed:
    compare = "Compare the model with what was trained; the quarantined directory holds it."
    if case.source == GOLDEN:
        return VerificationFailed(f"The candidate answers wrongly: {what}.", hint=compare)
    return VerificationFailed(
        f"The candidate answers wrongly to {_ASKED_WITH[case.source]}: {what}.",
        hint=f"{_REAL_INPUTS} Else compare the model with what was trained; the quarantined directory holds it.",
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


def _generated(schema: Schema) -> dict[str, Array]:
    """Return inputs of the declared shapes, with 1 for each dynamic dimension.

    Raises:
        ArtifactRejected: the inputs would have too many elements, or a type that numpy lacks.
    """
    wanted = [tensor for tensor in schema.inputs if not tensor.optional]
    # Count before any array is made: a file of 140 bytes can declare more elements than memory holds.
    elements = sum(math.prod(_shape(tensor)) for tensor in wanted)
    if elements > MOST_GENERATED:
        raise ArtifactRejected(
            f"Inputs of the declared shapes have {elements} elements, and no more than {MOST_GENERATED} are generated: "
            f"{', '.join(map(str, wanted))}.",
            hint=f"{HOW_TO_LOG}; the smoke test takes their shapes.",
        )
    return {tensor.name: _generate(tensor) for tensor in wanted}


def _shape(tensor: Tensor) -> list[int]:
    return [1 if size < 0 else size for size in tensor.shape]


def _generate(tensor: Tensor) -> Array:
    if tensor.datatype not in NUMPY_TYPES:
        raise ArtifactRejected(f"No smoke input can be made for {tensor}.", hint=f"{HOW_TO_LOG}.")
    shape = _shape(tensor)
    dtype = NUMPY_TYPES[tensor.datatype]
    if dtype is np.object_:
        return np.full(shape, "", dtype=np.object_)
    if np.issubdtype(dtype, np.floating):
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    # Integers are often indices, and every table has the index 0.
    return np.zeros(shape, dtype=dtype)
