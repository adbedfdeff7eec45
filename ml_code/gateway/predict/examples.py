"""A request that a model can answer, as a body of ``/predict``, from the inputs of its smoke test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...triton_deploy.model.smoke_case import GENERATED, Array
from ...triton_deploy.rules.datatypes import NUMPY_TYPES
from ...triton_deploy.rules.schema import Schema, Tensor
from ..backend import Example
from ..http.errors import Unprocessable
from .rows import to_tensors

MOST_INVENTED = 1000
"""Most numbers of an example that is made from the signature alone."""


def example_of(inputs: Mapping[str, Array], schema: Schema, source: str) -> Example | None:
    """Return a request with one row of some inputs; None if they can't be said in JSON.

    Args:
        inputs: arrays by input name, as clients send them.
        schema: the model's inputs and outputs.
        source: where the inputs come from.
    """
    try:
        body = _body(inputs, schema)
        # The gateway itself judges whether it would take the request.
        to_tensors(body, schema)
    except (Unprocessable, ValueError, KeyError, IndexError):
        return None
    return Example(body, source)


def invented(schema: Schema) -> Example | None:
    """Return a request of ones and empty texts; None for a signature whose inputs are large."""
    inputs = {tensor.name: _ones(tensor) for tensor in schema.inputs if not tensor.optional}
    if sum(array.size for array in inputs.values()) > MOST_INVENTED:
        return None
    return example_of(inputs, schema, GENERATED)


def _body(inputs: Mapping[str, Array], schema: Schema) -> dict[str, Any]:
    if not all(tensor.shape[:1] == (-1,) for tensor in schema.inputs):
        return {"columns": {name: _values(array) for name, array in inputs.items()}}
    first = {name: _values(array[:1])[0] for name, array in inputs.items()}
    if len(first) == 1 and len(schema.inputs) == 1:
        return {"rows": list(first.values())}
    return {"records": [first]}


def _values(array: Array) -> Any:
    """Return nested lists with the shortest decimal numbers that are the same in the array's type."""
    values: list[Any]
    if array.dtype == np.object_:
        values = [value.decode() if isinstance(value, bytes) else str(value) for value in array.flat]
    elif array.dtype.kind == "f":
        values = [float(str(value)) for value in array.flat]
        if not all(map(math.isfinite, values)):
            raise ValueError("JSON has no NaN and no infinity")
    else:
        values = array.ravel().tolist()
    shaped = np.empty(array.size, dtype=np.object_)
    shaped[:] = values
    return shaped.reshape(array.shape).tolist()


def _ones(tensor: Tensor) -> Array:
    shape = [1 if size < 0 else size for size in tensor.shape]
    if math.prod(shape) > MOST_INVENTED:
        # Only its size is looked at.
        return np.broadcast_to(np.zeros((), np.int8), shape)
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    return np.ones(shape, dtype=NUMPY_TYPES[tensor.datatype])
