"""JSON of a client, read strictly: bounded in depth, and with one meaning only. Pure: no I/O.

Two parsers can read one text differently. Of a member that stands twice, our parser takes the last value
and Triton's the first: a harmless second shape once hid a first shape that ended two Tritons. So a text
with such a member is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from .errors import Malformed

_STEPS = np.zeros(256, np.int8)
"""How each byte outside of strings changes the depth."""
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def check_depth(text: bytes, limit: int) -> None:
    """Refuse JSON that is nested deeper than ``limit``, before anything parses it.

    Parsers recurse: on 100,000 levels Triton 2.51 ends with a crash. This check reads each byte a few
    times, whatever the text holds. A text that is not JSON is left to the parser.

    Raises:
        Malformed: the text is too deep.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return
    if b"\\" in text:
        # Without escapes, each quote begins or ends a string. The length stays, and so do the positions.
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    data = np.frombuffer(text, np.uint8)
    steps = _STEPS[data]
    steps[np.logical_xor.accumulate(data == ord('"'))] = 0
    if int(np.cumsum(steps, dtype=np.int32).max()) > limit:
        raise Malformed(f"The JSON is nested deeper than {limit} levels.")


def decode(text: bytes, *, allow_nan: bool) -> Any:
    """Decode JSON.

    Args:
        text: the JSON.
        allow_nan: whether the literals NaN and Infinity may stand for numbers.

    Raises:
        Malformed: the text is not JSON, has a number that is not finite and may not, or an object with a
            member that stands twice.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if not allow_nan:
            raise Malformed(
                f"The body is not JSON: {error}. (NaN and Infinity are not JSON; binary tensors can carry them.)"
            ) from error
        return _decode_slowly(text)
    # Each member has a colon, and a member that stands twice is counted once. So the numbers differ when a
    # member stands twice, or when a string holds a colon: only then is the slow parser needed.
    if text.count(b":") != _members(value):
        _decode_slowly(text)
    return value


def encode(value: Mapping[str, Any], *, allow_nan: bool) -> bytes:
    """Return a decoded value as JSON; ``allow_nan`` as in ``decode``."""
    return json.dumps(value).encode() if allow_nan else orjson.dumps(value)


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
    """Return the number of members of all objects in a decoded value."""
    count, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            count += len(item)
            left += item.values()
        elif isinstance(item, list) and not {dict, list}.isdisjoint(map(type, item)):
            left += item
    return count
