"""A look at a v2 request before Triton gets it: what ends a real Triton with a crash does not pass.

Seen on Triton 2.51, each with one request: JSON data with a shape of 2^63-1 or of 10^12 elements, JSON data for a shape that
has none, data nested 100,000 deep; a shape of 2^63 and 0 ended the process of a Python backend. A body of no bytes is answered as if it were a batch of no rows.

What was judged is what is sent, because two parsers can read one text differently. Of a member that stands twice ours takes the
last value and Triton's the first: a harmless second shape hid a first one that ended two Tritons. So a member that stands twice is
refused, and the JSON part is written anew from what was checked, with the members that the protocol knows. Binary data is passed
on as it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import orjson

from ..http.body import check_depth
from ..http.errors import Malformed, TooLarge

MAX_TENSORS = 1024
MAX_ELEMENTS = 1 << 40
MAX_RANK = 64
_ANY = (-math.inf, math.inf)
_RANGES: Mapping[str, tuple[float, float]] = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
"""What the types of whole numbers hold: Triton takes 255 for -1 where it is an INT8."""
MAX_ID = 4096
"""Triton's answer begins with the id; the version follows it, and has to be within what is read ahead of an answer."""


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
        json_length: size of the JSON part in bytes when tensors follow it; None when all of it is JSON.
        announced: size of the whole body in bytes.
        max_json_bytes: largest JSON part.
        max_depth: deepest nesting of it.
        allow_nan: whether literals such as NaN pass.

    Returns:
        The members of the JSON part that the protocol knows. What ``encode`` makes of them may be sent.

    Raises:
        TooLarge: the JSON part is.
        Malformed: it is not a v2 request, or one that must not reach Triton.
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
    request = decode(text, allow_nan=allow_nan)
    if not isinstance(request, dict):
        raise Malformed("The request is not an object.")
    checked: dict[str, Any] = {}
    if len(_text(request.get("id", ""), "id")) > MAX_ID:
        raise Malformed(f"The request's id is longer than {MAX_ID} characters.")
    if "id" in request:
        checked["id"] = request["id"]
    _take_parameters(request, "request", checked)
    checked["inputs"] = [_checked_input(entry) for entry in _list(request, "inputs")]
    if len({entry["name"] for entry in checked["inputs"]}) != len(checked["inputs"]):
        raise Malformed("Two inputs have the same name.")
    binary = sum(entry.get("parameters", {}).get("binary_data_size", 0) for entry in checked["inputs"])
    if binary != announced - size:
        raise Malformed(
            f"{announced - size} bytes follow the JSON part, its inputs have a binary_data_size of {binary} in all."
        )
    if request.get("outputs") is not None:
        checked["outputs"] = [_checked_output(entry) for entry in _list(request, "outputs")]
    return checked


def rows_of(request: Mapping[str, Any]) -> int:
    """Return how many rows a request that ``check_request`` gave asks about: the first size of its first input; 0 without one."""
    inputs = request["inputs"]
    return int(inputs[0]["shape"][0]) if inputs and inputs[0]["shape"] else 0


def encode(request: Mapping[str, Any], *, allow_nan: bool) -> bytes:
    """Return a request that ``check_request`` gave as JSON; ``allow_nan`` is as there."""
    return json.dumps(request).encode() if allow_nan else orjson.dumps(request)


def decode(text: bytes, *, allow_nan: bool) -> Any:
    """Decode JSON.

    Raises:
        Malformed: it is none, has a number that is not finite and may not, or an object with a member that stands twice.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if not allow_nan:
            raise Malformed(
                f"The body is not JSON: {error}. (NaN and Infinity are not JSON; binary tensors can carry them.)"
            ) from error
        return _decode_slowly(text)
    # There is a colon after each member's name, and one member less for each that stands twice. What is left are texts with colons.
    if text.count(b":") != _members(value):
        _decode_slowly(text)
    return value


def _decode_slowly(text: bytes) -> Any:
    """Decode JSON, NaN and Infinity included, and look at every member; raises Malformed."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is not JSON: {error}.") from error


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"The member {twice[:100]!r} stands twice in one object: what it says is not clear.")
    return found


def _members(value: Any) -> int:
    """Return how many members the objects of a decoded text have in all."""
    count, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            count += len(item)
            left += item.values()
        elif isinstance(item, list) and not {dict, list}.isdisjoint(map(type, item)):
            left += item
    return count


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
    # A size of 0 hides the others from a product, and from Triton's check, but not from a backend that computes strides.
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
    """Check the parameters of a request, an input or an output, and add them to what was checked of it."""
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
    """Return the number of values in nested lists; how deep they are was checked before.

    Args:
        data: what stands for the values.
        within: the least and the largest whole number of the values' type.

    Raises:
        Malformed: there is an object among them, or a number that the type can't hold: Triton would take another one.
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
            # Triton takes levels that are mixed: counted one by one.
            return sum(_count(item if isinstance(item, list) else [item], within) for item in level)
        level = list(chain.from_iterable(level))
