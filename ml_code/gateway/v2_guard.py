"""A look at a v2 request before Triton gets it: what ends a real Triton with a crash does not pass.

Seen on Triton 2.51, each with one request: JSON data with a shape of 2^63-1 or of 10^12 elements, JSON data for a shape that
has none, data nested 100,000 deep. A body of no bytes is answered as if it were a batch of no rows. The bytes that pass are
forwarded as they came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import orjson

from .body import check_depth
from .errors import Malformed, TooLarge

MAX_TENSORS = 1024
MAX_ELEMENTS = 1 << 40
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
) -> Mapping[str, Any]:
    """Check an inference request.

    Args:
        body: the body, at least its JSON part.
        json_length: size of the JSON part in bytes when tensors follow it; None when all of it is JSON.
        announced: size of the whole body in bytes.
        max_json_bytes: largest JSON part.
        max_depth: deepest nesting of it.
        allow_nan: whether literals such as NaN pass.

    Returns:
        The decoded JSON part.

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
    if len(_text(request.get("id", ""), "id")) > MAX_ID:
        raise Malformed(f"The request's id is longer than {MAX_ID} characters.")
    inputs = _list(request, "inputs")
    _parameters(request, "request")
    binary = sum(_check_input(entry) for entry in inputs)
    if binary != announced - size:
        raise Malformed(
            f"{announced - size} bytes follow the JSON part, its inputs have a binary_data_size of {binary} in all."
        )
    if request.get("outputs") is not None:
        for entry in _list(request, "outputs"):
            _parameters(entry, "output")
            _text(entry.get("name"), "name of an output")
    return request


def decode(text: bytes, *, allow_nan: bool) -> Any:
    """Decode JSON; raises Malformed when it is none, or has a number that is not finite and may not."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if allow_nan:
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                pass
        raise Malformed(
            f"The body is not JSON: {error}. (NaN and Infinity are not JSON; binary tensors can carry them.)"
        ) from error


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"The {what} is not a text.")
    return value


def _list(request: Mapping[str, Any], key: str) -> list[Any]:
    entries = request.get(key)
    if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
        raise Malformed(f"The request has no list {key!r} of at most {MAX_TENSORS} tensors.")
    return entries


def _check_input(entry: object) -> int:
    """Check one input; return its binary_data_size."""
    if not isinstance(entry, dict):
        raise Malformed("An input is not an object.")
    name, shape = _text(entry.get("name"), "name of an input")[:100], entry.get("shape")
    _text(entry.get("datatype"), f"datatype of input {name!r}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise Malformed(f"The shape of input {name!r} is not a list of whole numbers of 0 or more.")
    elements = math.prod(shape) if len(shape) <= 64 else MAX_ELEMENTS + 1
    if elements > MAX_ELEMENTS:
        raise Malformed(f"The shape of input {name!r} has more elements than any request can hold.")
    size = _parameters(entry, "input").get("binary_data_size")
    data = entry.get("data")
    if size is not None:
        if type(size) is not int or size < 0 or data is not None:
            raise Malformed(f"Input {name!r} needs either 'data' or a 'binary_data_size' of 0 or more.")
        return size
    count = _count(data)
    if count != elements:
        raise Malformed(f"Input {name!r} has {count} values, its shape {shape} needs {elements}.")
    return 0


def _parameters(entry: object, what: str) -> Mapping[str, Any]:
    parameters = entry.get("parameters", {}) if isinstance(entry, dict) else None
    if not isinstance(parameters, dict):
        raise Malformed(f"The {what} or its parameters are not an object.")
    if any(str(key).startswith("shared_memory") for key in parameters):
        raise Malformed("Shared memory is not available through the gateway.")
    return parameters


def _count(data: object) -> int:
    """Return the number of values in nested lists; how deep they are was checked before."""
    if not isinstance(data, list):
        return -1
    level: list[Any] = data
    while list in set(map(type, level)):
        if set(map(type, level)) != {list}:
            # Triton takes levels that are mixed: counted one by one.
            return sum(_count(item) if isinstance(item, list) else 1 for item in level)
        level = list(chain.from_iterable(level))
    return len(level)
