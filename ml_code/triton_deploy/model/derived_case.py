"""Smoke cases for models that were logged without one.

ONNX Runtime runs the model on MLflow's input example, or on inputs that are made from the schema, in a
process of its own. Its answers are what Triton's are compared with.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import ArtifactRejected
from ..rules.datatypes import NUMPY_TYPES
from ..rules.schema import Schema, Tensor
from .input_examples import DoesNotFit, example_inputs
from .reference import ModelProcess
from .reference_limits import Limits, ModelFailed, ModelRefused
from .smoke_case import (
    GENERATED,
    HOW_TO_TAKE_RANDOM,
    INPUT_EXAMPLE,
    REAL_INPUTS,
    Array,
    SmokeCase,
    at_random,
    told,
)

MOST_GENERATED = 10_000_000
"""Most elements of all generated inputs together."""
HOW_TO_LOG = "Log golden inputs and outputs (triton/golden.json) with the model"
_FINITE_EXAMPLE = "Log an input example that the model answers with numbers, or repair it."

log = logging.getLogger(__name__)


def derive_case(
    model_file: Path, schema: Schema, serving_example: str | None, limits: Limits | None = None
) -> SmokeCase:
    """Make a smoke case for a model that was logged without one: run the model, in a process of its own.

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
    source, (first, *others) = _inputs(schema, serving_example)
    limits = limits or Limits()
    try:
        return SmokeCase(source, first, _own_answers(model_file, limits, source, first))
    except _InputsUnfit:
        if not others:
            raise
    (second,) = others
    return SmokeCase(source, second, _own_answers(model_file, limits, source, second))


class _InputsUnfit(ArtifactRejected):
    """The model does not answer these inputs with numbers; it may answer others."""


def _own_answers(
    model_file: Path, limits: Limits, source: str, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the answers of this machine's ONNX Runtime, which Triton's are compared with.

    Raises:
        ArtifactRejected: the model fails, answers at random, or its answer is not finite.
    """
    with _loaded(model_file, limits) as model:
        try:
            began = time.monotonic()
            answers = model.run(inputs)
            took_s = time.monotonic() - began
            again = model.run(inputs) if 3 * took_s < limits.timeout_s else answers
        except ModelFailed as failed:
            first = (
                f"{REAL_INPUTS} Else repair it." if source == GENERATED else f"{HOW_TO_LOG}, or repair it."
            )
            kind = _InputsUnfit if isinstance(failed, ModelRefused) else ArtifactRejected
            raise kind(
                f"ONNX Runtime can't run the model on {told(source)}: {failed.what}.",
                hint=failed.advice(first),
            ) from failed
    if apart := at_random(answers, again):
        raise ArtifactRejected(f"The model answers at random: {apart}.", hint=HOW_TO_TAKE_RANDOM)
    for name, answer in answers.items():
        if np.issubdtype(answer.dtype, np.floating) and not np.all(np.isfinite(answer)):
            raise _InputsUnfit(
                f"The model's own answer to {told(source)} is not finite (output {name}).",
                hint=f"{REAL_INPUTS if source == GENERATED else _FINITE_EXAMPLE} "
                "If such an answer is right, triton/golden.json may expect it: NaN, Infinity and -Infinity are read.",
            )
    return answers


def _loaded(model_file: Path, limits: Limits) -> ModelProcess:
    try:
        return ModelProcess(model_file, limits)
    except ModelFailed as failed:
        raise ArtifactRejected(
            f"ONNX Runtime can't load the model: {failed.what}.",
            hint=failed.advice(f"{HOW_TO_LOG}, or repair it."),
        ) from failed


def _inputs(schema: Schema, serving_example: str | None) -> tuple[str, list[dict[str, Array]]]:
    """Return the source of inputs for a model without golden data, and the inputs in the order to try."""
    if serving_example is not None:
        try:
            return INPUT_EXAMPLE, [example_inputs(serving_example, schema)]
        except DoesNotFit as why:
            log.warning(
                "the input example that MLflow keeps with the model is not used: %s. Inputs are invented instead; log an example of the "
                "model's own tensors, or triton/golden.json",
                why,
            )
    return GENERATED, _generated(schema)


def _generated(schema: Schema) -> list[dict[str, Array]]:
    """Return inputs of the declared shapes, with 1 for each dynamic dimension, in the order to try them.

    Whole numbers are 1 first: a mask or a length of 0 makes an answer NaN. As indices they are 0 then,
    which every table has.

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
    tries = [{tensor.name: _generate(tensor, whole) for tensor in wanted} for whole in (1, 0)]
    has_whole = any(array.dtype.kind in "iub" for array in tries[0].values())
    return tries if has_whole else tries[:1]


def _shape(tensor: Tensor) -> list[int]:
    return [1 if size < 0 else size for size in tensor.shape]


def _generate(tensor: Tensor, whole: int) -> Array:
    if tensor.datatype not in NUMPY_TYPES:
        raise ArtifactRejected(f"No smoke input can be made for {tensor}.", hint=f"{HOW_TO_LOG}.")
    shape = _shape(tensor)
    dtype = NUMPY_TYPES[tensor.datatype]
    if dtype is np.object_:
        return np.full(shape, "", dtype=np.object_)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    return np.full(shape, whole, dtype=dtype)
