"""From a ``/predict`` body to tensors, by the model's signature; every problem names its field. Pure: no I/O.

Three ways to say the same, for a model with inputs ``a`` (a number a row) and ``b`` (two numbers a row)::

    {"records": [{"a": 1, "b": [2, 3]}, …]}     a row an object
    {"rows":    [[1, [2, 3]], …]}               a row a list in the order of the inputs
    {"columns": {"a": [1, …], "b": [[2, 3], …]}} an input a list; also for inputs that have no rows

With a single input, an entry of ``rows`` is that input's row itself. A bare list stands for ``records`` or ``rows``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.datatypes import NUMPY_TYPES
from ...triton_deploy.rules.schema import Schema, Tensor
from ..http.errors import Problem, Unprocessable

MAX_PROBLEMS = 20
FORMS = ("records", "rows", "columns")


class _Wrong(Exception):
    """A value that does not fit; found at a path below the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.problem = Problem(field, problem)


def to_tensors(body: object, schema: Schema, *, allow_nan: bool = False) -> dict[str, Array]:
    """Convert a decoded body.

    Args:
        body: one of the forms above.
        schema: the model's inputs and outputs.
        allow_nan: whether ``null`` means NaN in a floating-point input; otherwise it is refused.

    Returns:
        Arrays by input name, with exactly the datatype and a shape that the signature allows.

    Raises:
        Unprocessable: what does not fit, up to MAX_PROBLEMS fields.
    """
    form, content = _form(body)
    columns = content if form == "columns" else _columns(form, content, schema)
    problems: list[Problem] = []
    arrays = {}
    for tensor in schema.inputs:
        if tensor.name not in columns:
            if not tensor.optional:
                problems.append(Problem(f"columns.{tensor.name}", f"is missing; the model needs {tensor}"))
            continue
        try:
            arrays[tensor.name] = _array(columns[tensor.name], tensor, form, schema, allow_nan)
        except _Wrong as wrong:
            problems.append(wrong.problem)
    known = {tensor.name for tensor in schema.inputs}
    problems += [
        Problem(f"columns.{str(name)[:100]}", f"is not an input of the model: {_names(schema)}")
        for name in islice((name for name in columns if name not in known), MAX_PROBLEMS)
    ]
    if not problems:
        problems = _different_lengths(arrays, schema)
    if problems:
        raise _refusal(problems)
    return arrays


def _form(body: object) -> tuple[str, Any]:
    if isinstance(body, list):
        return ("records" if body and isinstance(body[0], dict) else "rows"), body
    given = [form for form in FORMS if isinstance(body, dict) and form in body]
    if len(given) != 1 or not isinstance(body, dict) or len(body) != 1:
        raise _refusal(
            [Problem("", f"must be an object with exactly one of {', '.join(FORMS)}, or a list of rows")]
        )
    form = given[0]
    expected: type = dict if form == "columns" else list
    if not isinstance(body[form], expected):
        raise _refusal([Problem(form, f"must be {'an object' if expected is dict else 'a list'}")])
    return form, body[form]


def _columns(form: str, rows: Sequence[Any], schema: Schema) -> dict[str, Any]:
    """Turn rows into a list for each input."""
    if not all(tensor.shape[:1] == (-1,) for tensor in schema.inputs):
        raise _refusal(
            [Problem(form, "this model's inputs have no rows; use columns, each with a whole input")]
        )
    if not rows:
        raise _refusal([Problem(form, "is empty")])
    if form == "rows":
        return _columns_of_lists(rows, schema)
    problems: list[Problem] = []
    names = {tensor.name for tensor in schema.inputs}
    # An optional input is there in all rows or in none.
    expected = {
        t.name for t in schema.inputs if not t.optional or (isinstance(rows[0], dict) and t.name in rows[0])
    }
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            problems.append(Problem(f"records[{index}]", "must be an object"))
        elif row.keys() != expected:
            problems += [
                Problem(f"records[{index}].{name}", "is missing") for name in sorted(expected - row.keys())
            ]
            problems += [
                Problem(
                    f"records[{index}].{str(name)[:100]}",
                    "is missing in the first row"
                    if name in names
                    else f"is not an input of the model: {_names(schema)}",
                )
                for name in sorted(row.keys() - expected)[:MAX_PROBLEMS]
            ]
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise _refusal(problems)
    return {name: [row[name] for row in rows] for name in expected}


def _columns_of_lists(rows: Sequence[Any], schema: Schema) -> dict[str, Any]:
    names = [tensor.name for tensor in schema.inputs if not tensor.optional]
    if len(names) == 1:
        return {names[0]: list(rows)}
    wrong = (index for index, row in enumerate(rows) if not isinstance(row, list) or len(row) != len(names))
    problems = [
        Problem(f"rows[{index}]", f"must be a list of {len(names)} values: {', '.join(names)}")
        for index in islice(wrong, MAX_PROBLEMS)
    ]
    if problems:
        raise _refusal(problems)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _array(value: Any, tensor: Tensor, form: str, schema: Schema, allow_nan: bool) -> Array:
    """Convert one input's nested lists."""
    single_row = form == "rows" and sum(not t.optional for t in schema.inputs) == 1

    def name(indices: Sequence[int]) -> str:
        """Write a place as the client wrote it."""
        inner = "".join(f"[{index}]" for index in indices[1:])
        first = f"[{indices[0]}]" if indices else ""
        if form == "columns":
            return f"columns.{tensor.name}{first}{inner}"
        if single_row:
            return f"rows{first}{inner}"
        if form == "rows":
            position = [t.name for t in schema.inputs if not t.optional].index(tensor.name)
            return f"rows{first}[{position}]{inner}"
        return f"records{first}.{tensor.name}{inner}"

    shape = list(tensor.shape)
    if shape[1:] == [1] and isinstance(value, list) and value and not isinstance(value[0], list):
        # A number a row, for an input whose rows are lists of one.
        flat, sizes = _flatten(value, [shape[0]], name, tensor)
        sizes = [*sizes, 1]
    else:
        flat, sizes = _flatten(value, shape, name, tensor)
    _check_types(flat, sizes, name, tensor, allow_nan)
    return _convert(flat, sizes, name, tensor)


def _flatten(value: Any, shape: Sequence[int], name: Any, tensor: Tensor) -> tuple[list[Any], list[int]]:
    """Return the values of nested lists in order, and the size of each dimension; each level is looked at in one go."""
    level: list[Any] = [value]
    sizes: list[int] = []
    for expected in shape:
        if set(map(type, level)) - {list}:
            index = next(i for i, item in enumerate(level) if type(item) is not list)
            raise _Wrong(
                name(_indices(index, sizes)), f"must be a list; {tensor} has {len(shape)} dimensions"
            )
        lengths = set(map(len, level))
        size = expected if expected >= 0 else (len(level[0]) if level else 0)
        if lengths - {size}:
            index = next(i for i, item in enumerate(level) if len(item) != size)
            raise _Wrong(
                name(_indices(index, sizes)),
                f"has {len(level[index])} values, {size} are expected by {tensor}",
            )
        level = list(chain.from_iterable(level))
        sizes.append(size)
    return level, sizes


def _check_types(
    flat: Sequence[Any], sizes: Sequence[int], name: Any, tensor: Tensor, allow_nan: bool
) -> None:
    allowed, word = _ALLOWED[_kind(tensor)]
    if allow_nan and _kind(tensor) == "float":
        allowed = allowed | {type(None)}
    if set(map(type, flat)) - allowed:
        index = next(i for i, item in enumerate(flat) if type(item) not in allowed)
        item = flat[index]
        got = _JSON_NAMES.get(type(item), "something else")
        raise _Wrong(name(_indices(index, sizes)), f"must be {word} ({tensor.datatype}), not {got}")


def _convert(flat: list[Any], sizes: Sequence[int], name: Any, tensor: Tensor) -> Array:
    kind = _kind(tensor)
    if kind == "bytes":
        array: Array = np.array([text.encode() for text in flat], dtype=np.object_)
        return array.reshape(sizes)
    dtype: np.dtype[Any] = np.dtype(NUMPY_TYPES[tensor.datatype])
    if kind == "int":
        limits = np.iinfo(dtype)
        if flat and (min(flat) < limits.min or max(flat) > limits.max):
            index = next(i for i, item in enumerate(flat) if not limits.min <= item <= limits.max)
            raise _Wrong(
                name(_indices(index, sizes)), f"does not fit {tensor.datatype} ({limits.min} to {limits.max})"
            )
        return np.array(flat, dtype=dtype).reshape(sizes)
    if kind == "bool":
        return np.array(flat, dtype=dtype).reshape(sizes)
    # A whole number beyond any float is the one thing that numpy would raise for.
    exact = np.array([item if abs(item or 0) < 2**1023 else np.inf for item in flat], dtype=np.float64)
    with np.errstate(over="ignore"):
        array = exact.astype(dtype)
    beyond = np.isinf(array)
    if beyond.any():
        raise _Wrong(name(_indices(int(beyond.argmax()), sizes)), f"does not fit {tensor.datatype}")
    return array.reshape(sizes)


def _indices(position: int, sizes: Sequence[int]) -> list[int]:
    """Return the indices of an item of a flattened level."""
    indices: list[int] = []
    for size in reversed(sizes):
        position, index = divmod(position, size)
        indices.insert(0, index)
    return indices


def _different_lengths(arrays: Mapping[str, Array], schema: Schema) -> list[Problem]:
    if not all(tensor.shape[:1] == (-1,) for tensor in schema.inputs):
        return []
    lengths = {name: array.shape[0] for name, array in arrays.items()}
    if not lengths or min(lengths.values()) == 0:
        return [Problem("columns", "must have at least one row")]
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return [Problem("columns", f"must have the same number of rows in every input: {text}")]
    return []


def _kind(tensor: Tensor) -> str:
    if tensor.datatype == "BYTES":
        return "bytes"
    if tensor.datatype == "BOOL":
        return "bool"
    return "int" if "INT" in tensor.datatype else "float"


def _names(schema: Schema) -> str:
    return ", ".join(tensor.name for tensor in schema.inputs)


def _refusal(problems: Sequence[Problem]) -> Unprocessable:
    first = problems[0]
    text = f"{first.field or 'the body'} {first.problem}"
    return Unprocessable(f"The body does not fit the model: {text}.", problems=problems[:MAX_PROBLEMS])


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
