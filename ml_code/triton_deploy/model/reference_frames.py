"""Frames: the messages between the deployer and a process that runs a model.

A frame has a JSON head and arrays. It consists of the lengths of its head and its body (two unsigned
64-bit numbers, little-endian), the head (UTF-8) and the bytes of all arrays. The head has the name, type,
shape and length of each array. Nothing is unpickled, and the reader checks everything: a model may have
taken over the process that writes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HEAD_BYTES = 4 << 20
"""Longest head that is read."""
TEXT = "text"
NUMBERS = (
    *("bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""Types of arrays beside ``text``, by numpy's names."""

_LENGTHS = struct.Struct("<QQ")
_TEXT_LENGTH = struct.Struct("<I")


class TooLarge(Exception):
    """A frame has more bytes than its reader takes.

    Args:
        size_bytes: the frame's size.
    """

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes")
        self.size_bytes = size_bytes


@dataclass(frozen=True)
class Frame:
    """One message: a head, and arrays by name."""

    head: Mapping[str, Any]
    arrays: Mapping[str, Array]


def packed(head: Mapping[str, Any], arrays: Mapping[str, Any], limit_bytes: int | None = None) -> list[bytes]:
    """Return a frame as bytes, in parts.

    Args:
        head: JSON values.
        arrays: arrays by name; an array of objects is text.
        limit_bytes: limit of all arrays together, or None.

    Raises:
        TypeError: a value is not an array, or its type can't be in a frame.
        TooLarge: the arrays have more bytes than ``limit_bytes``.
    """
    bodies: list[bytes] = []
    described = []
    size_bytes = 0
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is no array, but of type {type(array).__name__}")
        # Check the size before the array is copied.
        _within(size_bytes + array.nbytes, limit_bytes)
        dtype, body = _encoded(name, array)
        size_bytes += len(body)
        _within(size_bytes, limit_bytes)
        bodies.append(body)
        described.append({"name": name, "dtype": dtype, "shape": array.shape, "bytes": len(body)})
    text = json.dumps({**head, "arrays": described}).encode()
    return [_LENGTHS.pack(len(text), size_bytes), text, *bodies]


class Reader:
    """Puts a frame together from received bytes.

    Args:
        limit_bytes: limit of all arrays together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._came = bytearray()

    @property
    def missing_bytes(self) -> int:
        """Number of bytes that are known to be missing; 0 when the frame is whole.

        Raises:
            TooLarge: the frame is larger than the limit; its first bytes tell.
        """
        if len(self._came) < _LENGTHS.size:
            return _LENGTHS.size - len(self._came)
        head, body = _LENGTHS.unpack_from(self._came)
        _within(head, HEAD_BYTES)
        _within(body, self._limit_bytes)
        return int(_LENGTHS.size + head + body - len(self._came))

    def feed(self, data: bytes) -> None:
        """Take received bytes, not more than ``missing_bytes``."""
        self._came += data

    def frame(self) -> Frame:
        """Return the frame, when no bytes are missing.

        Raises:
            ValueError: the bytes are not a frame.
        """
        length, _ = _LENGTHS.unpack_from(self._came)
        body = memoryview(self._came)[_LENGTHS.size + length :]
        try:
            head = json.loads(self._came[_LENGTHS.size : _LENGTHS.size + length])
            arrays = dict(_decoded(head["arrays"], body))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            struct.error,
        ) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return Frame(head, arrays)


def _within(size_bytes: int, limit_bytes: int | None) -> None:
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise TooLarge(size_bytes)


def _encoded(name: str, array: Array) -> tuple[str, bytes]:
    if array.dtype == np.object_:
        # ONNX Runtime takes the str() of a value that is not text.
        texts = (str(value).encode(errors="surrogatepass") for value in array.flat)
        return TEXT, b"".join(part for text in texts for part in (_TEXT_LENGTH.pack(len(text)), text))
    if array.dtype.name not in NUMBERS:
        raise TypeError(f"{name} has type {array.dtype}, which Triton does not serve")
    return array.dtype.name, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _decoded(described: Sequence[Mapping[str, Any]], body: memoryview) -> Iterator[tuple[str, Array]]:
    for one in described:
        name, dtype, shape, size_bytes = one["name"], one["dtype"], tuple(one["shape"]), one["bytes"]
        part, body = body[:size_bytes], body[size_bytes:]
        if not isinstance(name, str) or any(not isinstance(size, int) or size < 0 for size in shape):
            raise ValueError(f"no array has name {name!r} and shape {shape}")
        if dtype == TEXT:
            flat: Array = np.array([*_texts(part), None], np.object_)[:-1]
        elif dtype in NUMBERS:
            flat = np.frombuffer(bytes(part), np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
        else:
            raise ValueError(f"no array has type {dtype!r}")
        if flat.size != math.prod(shape):
            raise ValueError(f"{flat.size} elements are not of shape {shape}")
        yield name, flat.reshape(shape)


def _texts(part: memoryview) -> Iterator[str]:
    while part:
        (length,) = _TEXT_LENGTH.unpack_from(part)
        yield str(part[_TEXT_LENGTH.size : _TEXT_LENGTH.size + length], "utf-8", "surrogatepass")
        part = part[_TEXT_LENGTH.size + length :]
