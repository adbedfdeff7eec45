"""MLflow's input example of a model (``serving_input_example.json``), as arrays for the model's inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors.texts import excerpt
from ..rules.datatypes import NUMPY_TYPES
from ..rules.schema import Schema, Tensor

Array = NDArray[Any]

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Errors of taking a JSON document apart that has another structure than expected."""


class DoesNotFit(ValueError):
    """The example does not fit the model; the text is the reason, without a full stop."""


def example_inputs(text: str, schema: Schema) -> dict[str, Array]:
    """Read an example in MLflow's scoring protocol.

    Args:
        text: JSON with ``inputs``, ``instances`` or ``dataframe_split``.
        schema: the model's inputs and outputs.

    Returns:
        Arrays by input name.

    Raises:
        DoesNotFit: the text is something else, or does not have the model's inputs.
    """
    try:
        values = _by_name(json.loads(text), schema)
    except MALFORMED as error:
        raise DoesNotFit(
            "it is not in MLflow's scoring protocol (inputs, instances or dataframe_split)"
        ) from error
    tensors = {tensor.name: tensor for tensor in schema.inputs}
    for name in values:
        if name not in tensors:
            raise DoesNotFit(f"it has {_quoted(name)}, which is not an input of the model ({_names(schema)})")
    for name, tensor in tensors.items():
        if name not in values and not tensor.optional:
            raise DoesNotFit(f"it lacks the input {_quoted(name)}")
    return {name: _array(tensors[name], value) for name, value in values.items()}


def _by_name(data: Any, schema: Schema) -> Mapping[str, Any]:
    if "dataframe_split" in data:
        table = data["dataframe_split"]
        if len(schema.inputs) == 1:
            return {schema.inputs[0].name: table["data"]}
        columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
        return {name: [[value] for value in values] for name, values in columns.items()}
    given = data["inputs"] if "inputs" in data else data["instances"]
    return given if isinstance(given, dict) else {schema.inputs[0].name: given}


def _array(tensor: Tensor, value: Any) -> Array:
    try:
        array: Array = np.array(value, dtype=NUMPY_TYPES[tensor.datatype])
    except MALFORMED as error:
        raise DoesNotFit(f"its values for {_quoted(tensor.name)} are not {tensor.datatype}") from error
    if not tensor.shape and array.size == 1:
        # MLflow keeps no scalar: the example has a list of one.
        array = array.reshape(())
    fits = array.ndim == len(tensor.shape) and all(
        size in (-1, had) for size, had in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        raise DoesNotFit(
            f"its values for {_quoted(tensor.name)} have shape {list(array.shape)}, the model takes {list(tensor.shape)}"
        )
    return array


def _quoted(name: object) -> str:
    return f"'{excerpt(str(name), 60)}'"


def _names(schema: Schema) -> str:
    return excerpt(", ".join(tensor.name for tensor in schema.inputs), 200)
