"""From nested lists of JSON to the array of one input. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.datatypes import NUMPY_TYPES
from ...triton_deploy.rules.schema import Tensor

_ALLOWED: Mapping[str, tuple[set[type], str]] = {
    "float": ({int, float}, "a number"),
    "int": ({int}, "a whole number"),
    "bool": ({bool}, "true or false"),
    "bytes": ({str}, "a text"),
}
_JSON_NAMES = {
    int: "a whole number",
    float: "a number with a fraction",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


class Misfit(Exception):
    """A value that does not fit its tensor.

    Args:
        position: position of the value among all values of its level of lists.
        sizes: sizes of the levels above, outermost first.
        problem: the problem with the value.

    Attributes:
        indices: the value's index in each level, outermost first.
    """

    def __init__(self, position: int, sizes: Sequence[int], problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.indices: list[int] = []
        for size in reversed(sizes):
            position, index = divmod(position, size)
            self.indices.insert(0, index)


def to_array(value: Any, tensor: Tensor, *, allow_nan: bool) -> Array:
    """Convert the nested lists of one input.

    Args:
        value: nested lists.
        tensor: the input.
        allow_nan: whether ``null`` means NaN in a floating-point input.

    Raises:
        Misfit: the first value that does not fit.
    """
    shape = list(tensor.shape)
    if shape[1:] == [1] and isinstance(value, list) and value and not isinstance(value[0], list):
        # The input's rows are lists of one number, and the client sent a number for each row.
        flat, sizes = _flatten(value, shape[:1], tensor)
        sizes = [*sizes, 1]
    else:
        flat, sizes = _flatten(value, shape, tensor)
    _check_types(flat, sizes, tensor, allow_nan)
    return _convert(flat, sizes, tensor)


def _flatten(value: Any, shape: Sequence[int], tensor: Tensor) -> tuple[list[Any], list[int]]:
    """Return the values of nested lists in order, and the size of each dimension.

    Each level is checked as a whole: a loop over single values would be much slower.
    """
    level: list[Any] = [value]
    sizes: list[int] = []
    for expected in shape:
        if set(map(type, level)) - {list}:
            index = next(i for i, item in enumerate(level) if type(item) is not list)
            raise Misfit(index, sizes, f"must be a list; {tensor} has {len(shape)} dimensions")
        lengths = set(map(len, level))
        size = expected if expected >= 0 else (len(level[0]) if level else 0)
        if lengths - {size}:
            index = next(i for i, item in enumerate(level) if len(item) != size)
            raise Misfit(index, sizes, f"has {len(level[index])} values, {size} are expected by {tensor}")
        level = list(chain.from_iterable(level))
        sizes.append(size)
    return level, sizes


def _check_types(flat: Sequence[Any], sizes: Sequence[int], tensor: Tensor, allow_nan: bool) -> None:
    allowed, word = _ALLOWED[_kind(tensor)]
    if allow_nan and _kind(tensor) == "float":
        allowed = allowed | {type(None)}
    if set(map(type, flat)) - allowed:
        index = next(i for i, item in enumerate(flat) if type(item) not in allowed)
        got = _JSON_NAMES.get(type(flat[index]), "something else")
        raise Misfit(index, sizes, f"must be {word} ({tensor.datatype}), not {got}")


def _convert(flat: list[Any], sizes: Sequence[int], tensor: Tensor) -> Array:
    kind = _kind(tensor)
    if kind == "bytes":
        texts: Array = np.array([text.encode() for text in flat], dtype=np.object_)
        return texts.reshape(sizes)
    dtype: np.dtype[Any] = np.dtype(NUMPY_TYPES[tensor.datatype])
    if kind == "float":
        return _floats(flat, sizes, tensor, dtype)
    if kind == "int":
        limits = np.iinfo(dtype)
        if flat and (min(flat) < limits.min or max(flat) > limits.max):
            index = next(i for i, item in enumerate(flat) if not limits.min <= item <= limits.max)
            raise Misfit(index, sizes, f"does not fit {tensor.datatype} ({limits.min} to {limits.max})")
    return np.array(flat, dtype=dtype).reshape(sizes)


def _floats(flat: list[Any], sizes: Sequence[int], tensor: Tensor, dtype: np.dtype[Any]) -> Array:
    # numpy raises an error for one kind of value only: a whole number beyond any float.
    exact = np.array([np.inf if _beyond_floats(item) else item for item in flat], dtype=np.float64)
    with np.errstate(over="ignore"):
        array: Array = exact.astype(dtype)
    beyond = np.isinf(array)
    if beyond.any():
        raise Misfit(int(beyond.argmax()), sizes, f"does not fit {tensor.datatype}")
    return array.reshape(sizes)


def _beyond_floats(item: float | int | None) -> bool:
    """Whether a number is a whole one that would round to no float64 (IEEE 754)."""
    return isinstance(item, int) and abs(item) >= 2**1024 - 2**970


def _kind(tensor: Tensor) -> str:
    if tensor.datatype == "BYTES":
        return "bytes"
    if tensor.datatype == "BOOL":
        return "bool"
    return "int" if "INT" in tensor.datatype else "float"
