"""Checks a v2 request before Triton gets it: requests that crash a real Triton do not pass.

Seen on Triton 2.51, each with one request: JSON data with a shape of 2^63-1 or of 10^12 elements, JSON data
for a shape that has none, data nested 100,000 deep; a shape of 2^63 and 0 ended the process of a Python
backend. Triton answers an empty body as if it were a batch of no rows.

Two parsers can read one text differently (see ``strict_json``), so Triton gets only checked text: the JSON
part is written anew from the checked members, and only from members that the protocol knows. Binary data is
passed on as it came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

from ..http.errors import Malformed, TooLarge
from ..http.strict_json import check_depth, decode

MAX_TENSORS = 1024
MAX_ELEMENTS = 1 << 40
MAX_RANK = 64
_ANY = (-math.inf, math.inf)
_RANGES: Mapping[str, tuple[float, float]] = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
"""The least and the largest value of the types of whole numbers: Triton reads 255 as -1 for an INT8."""
MAX_ID = 4096
"""Largest id, characters: it precedes the version, which has to be in the first piece of an answer."""


def check_request(
    body: bytes,
    json_length: int | None,
    announced: int,
    *,
    max_json_bytes: int,
    max_depth: int,
    allow_nan: bool,
) -> dict[str, Any]:
    """Check an inference request.

    Args:
        body: the body, at least its JSON part.
        json_length: size of the JSON part in bytes when tensors follow it; None when the whole body is JSON.
        announced: size of the whole body, bytes.
        max_json_bytes: largest JSON part, bytes.
        max_depth: deepest nesting of the JSON part.
        allow_nan: whether literals such as NaN pass.

    Returns:
        The members of the JSON part that the protocol knows; ``strict_json.encode`` writes them for Triton.

    Raises:
        TooLarge: the JSON part is too large.
        Malformed: the body is not a v2 request, or must not reach Triton.
    """
    size = announced if json_length is None else json_length
    if size > max_json_bytes:
        raise TooLarge(
            f"The JSON part of the body is larger than {max_json_bytes} bytes; send tensors as binary data."
        )
    if size == 0 or size > announced:
        raise Malformed(
            "The body has no JSON part, or Inference-Header-Content-Length is larger than the body."
        )
    text = body if len(body) == size else body[:size]
    check_depth(text, max_depth)
    return _checked_request(decode(text, allow_nan=allow_nan), announced - size)


def rows_of(request: Mapping[str, Any]) -> int:
    """Return the number of rows of a checked request: the first size of its first input; 0 without one."""
    inputs = request["inputs"]
    return int(inputs[0]["shape"][0]) if inputs and inputs[0]["shape"] else 0


def _checked_request(request: object, binary_bytes: int) -> dict[str, Any]:
    """Return the checked members of a decoded request that this many bytes of binary tensors follow."""
    if not isinstance(request, dict):
        raise Malformed("The request is not an object.")
    checked: dict[str, Any] = {}
    if len(_text(request.get("id", ""), "id")) > MAX_ID:
        raise Malformed(f"The request's id is longer than {MAX_ID} characters.")
    if "id" in request:
        checked["id"] = request["id"]
    _take_parameters(request, "request", checked)
    checked["inputs"] = inputs = [_checked_input(entry) for entry in _list(request, "inputs")]
    if len({entry["name"] for entry in inputs}) != len(inputs):
        raise Malformed("Two inputs have the same name.")
    announced = sum(entry.get("parameters", {}).get("binary_data_size", 0) for entry in inputs)
    if announced != binary_bytes:
        raise Malformed(
            f"{binary_bytes} bytes follow the JSON part, its inputs have a binary_data_size of {announced} in all."
        )
    if request.get("outputs") is not None:
        checked["outputs"] = [_checked_output(entry) for entry in _list(request, "outputs")]
    return checked


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"The {what} is not a text.")
    return value


def _list(request: Mapping[str, Any], key: str) -> list[Any]:
    entries = request.get(key)
    if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
        raise Malformed(f"The request has no list {key!r} of at most {MAX_TENSORS} tensors.")
    return entries


def _checked_input(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise Malformed("An input is not an object.")
    checked: dict[str, Any] = {"name": _text(entry.get("name"), "name of an input")}
    name, shape = checked["name"][:100], entry.get("shape")
    checked["datatype"] = _text(entry.get("datatype"), f"datatype of input {name!r}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise Malformed(f"The shape of input {name!r} is not a list of whole numbers of 0 or more.")
    # A size of 0 hides the other sizes from a product and from Triton's check, but a backend that computes
    # strides meets them.
    if len(shape) > MAX_RANK or math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise Malformed(f"The shape of input {name!r} has more elements than any request can hold.")
    checked["shape"] = shape
    size = _take_parameters(entry, "input", checked).get("binary_data_size")
    data = entry.get("data")
    if size is not None:
        if type(size) is not int or size < 0 or data is not None:
            raise Malformed(f"Input {name!r} needs either 'data' or a 'binary_data_size' of 0 or more.")
        return checked
    count = _count(data, _RANGES.get(checked["datatype"], _ANY))
    if count != math.prod(shape):
        raise Malformed(f"Input {name!r} has {count} values, its shape {shape} needs {math.prod(shape)}.")
    checked["data"] = data
    return checked


def _checked_output(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise Malformed("An output is not an object.")
    checked: dict[str, Any] = {"name": _text(entry.get("name"), "name of an output")}
    _take_parameters(entry, "output", checked)
    return checked


def _take_parameters(entry: Mapping[str, Any], what: str, checked: dict[str, Any]) -> Mapping[str, Any]:
    """Check the parameters of a request, an input or an output; add them to ``checked``, and return them."""
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Malformed(f"The {what}'s parameters are not an object.")
    for name, value in parameters.items():
        if name.startswith("shared_memory"):
            raise Malformed("Shared memory is not available through the gateway.")
        if not isinstance(value, (str, int, float)):
            raise Malformed(
                f"The parameter {name[:100]!r} of the {what} is not a text, a number or a truth value."
            )
    if parameters:
        checked["parameters"] = parameters
    return parameters


def _count(data: object, within: tuple[float, float]) -> int:
    """Return the number of values in nested lists, whose depth was checked before; -1 if there is no list.

    Args:
        data: the nested lists.
        within: the least and the largest whole number that the datatype holds.

    Raises:
        Malformed: a value is an object, or a number outside of the range, which Triton would misread.
    """
    if not isinstance(data, list):
        return -1
    level: list[Any] = data
    while True:
        types = set(map(type, level))
        if dict in types:
            raise Malformed("There is an object among the values of an input.")
        if list not in types:
            if (
                types == {int}
                and within is not _ANY
                and not within[0] <= min(level) <= max(level) <= within[1]
            ):
                raise Malformed(
                    f"A value of an input is not between {within[0]} and {within[1]}, as its datatype is."
                )
            return len(level)
        if types != {list}:
            # Triton accepts lists and values on one level: count them one by one.
            return sum(_count(item if isinstance(item, list) else [item], within) for item in level)
        level = list(chain.from_iterable(level))
