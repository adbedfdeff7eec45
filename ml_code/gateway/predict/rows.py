"""From a ``/predict`` body to tensors, by the model's signature; every problem names its field. Pure: no I/O.

The three forms of a body, for a model with inputs ``a`` (one number in each row) and ``b`` (two numbers)::

    {"records": [{"a": 1, "b": [2, 3]}, …]}      each row is an object
    {"rows":    [[1, [2, 3]], …]}                each row is a list, in the order of the inputs
    {"columns": {"a": [1, …], "b": [[2, 3], …]}} each input is a list; also for inputs that have no rows

With a single input, an entry of ``rows`` is the row of that input itself. A bare list means ``records`` or
``rows``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.schema import Schema, Tensor
from ..http.errors import Problem, Unprocessable
from .values import Misfit, to_array

MAX_PROBLEMS = 20
FORMS = ("records", "rows", "columns")


def to_tensors(body: object, schema: Schema, *, allow_nan: bool = False) -> dict[str, Array]:
    """Convert a decoded body.

    Args:
        body: one of the forms above.
        schema: the model's inputs and outputs.
        allow_nan: whether ``null`` means NaN in a floating-point input; otherwise ``null`` is refused.

    Returns:
        Arrays by input name, with the datatype and a shape of the signature.

    Raises:
        Unprocessable: values do not fit; it names up to MAX_PROBLEMS fields.
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
            arrays[tensor.name] = to_array(columns[tensor.name], tensor, allow_nan=allow_nan)
        except Misfit as misfit:
            problems.append(Problem(_place(form, tensor, schema, misfit.indices), misfit.problem))
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
    return _columns_of_records(rows, schema)


def _columns_of_records(rows: Sequence[Any], schema: Schema) -> dict[str, Any]:
    # An optional input is present in all rows or in none.
    expected = {
        t.name for t in schema.inputs if not t.optional or (isinstance(rows[0], dict) and t.name in rows[0])
    }
    problems: list[Problem] = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            problems.append(Problem(f"records[{index}]", "must be an object"))
        elif row.keys() != expected:
            problems += _other_keys(index, row, expected, schema)
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise _refusal(problems)
    return {name: [row[name] for row in rows] for name in expected}


def _other_keys(index: int, row: Mapping[str, Any], expected: set[str], schema: Schema) -> list[Problem]:
    """Return the problems of a record that has other keys than expected."""
    inputs = {tensor.name for tensor in schema.inputs}
    not_an_input = f"is not an input of the model: {_names(schema)}"
    missing = [Problem(f"records[{index}].{name}", "is missing") for name in sorted(expected - row.keys())]
    surplus = [
        Problem(
            f"records[{index}].{str(name)[:100]}",
            "is missing in the first row" if name in inputs else not_an_input,
        )
        for name in sorted(row.keys() - expected)[:MAX_PROBLEMS]
    ]
    return missing + surplus


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


def _place(form: str, tensor: Tensor, schema: Schema, indices: Sequence[int]) -> str:
    """Return the place of a value as the client wrote it.

    Args:
        form: the form of the body.
        tensor: the value's input.
        schema: the model's inputs and outputs.
        indices: indices of the value in the input's nested lists, the row's first.
    """
    first = "".join(f"[{index}]" for index in indices[:1])
    inner = "".join(f"[{index}]" for index in indices[1:])
    if form == "columns":
        return f"columns.{tensor.name}{first}{inner}"
    if form == "records":
        return f"records{first}.{tensor.name}{inner}"
    required = [t.name for t in schema.inputs if not t.optional]
    if len(required) == 1:
        return f"rows{first}{inner}"
    return f"rows{first}[{required.index(tensor.name)}]{inner}"


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


def _names(schema: Schema) -> str:
    return ", ".join(tensor.name for tensor in schema.inputs)


def _refusal(problems: Sequence[Problem]) -> Unprocessable:
    first = problems[0]
    text = f"{first.field or 'the body'} {first.problem}"
    return Unprocessable(f"The body does not fit the model: {text}.", problems=problems[:MAX_PROBLEMS])
