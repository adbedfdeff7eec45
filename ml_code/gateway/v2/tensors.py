"""KServe v2 bodies: tensors to and from JSON and binary data. Pure: no I/O.

Source: the KServe v2 protocol and Triton's binary tensor data extension.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.datatypes import NUMPY_TYPES
from ..http.errors import BackendFailed, Malformed

_NAMES = {np.dtype(dtype): name for name, dtype in NUMPY_TYPES.items()}


def datatype(array: Array) -> str:
    """Return the v2 name of an array's type; texts of any kind are BYTES."""
    return "BYTES" if array.dtype.kind in "OUS" else _NAMES[array.dtype]


def binary_request(inputs: Mapping[str, Array]) -> tuple[bytes, int]:
    """Return the body of a request for binary tensors in both directions, and the size of its JSON part."""
    entries, blobs = [], []
    for name, array in inputs.items():
        blob = to_bytes(array)
        entries.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype(array),
                "parameters": {"binary_data_size": len(blob)},
            }
        )
        blobs.append(blob)
    head = orjson.dumps({"inputs": entries, "parameters": {"binary_data_output": True}})
    return b"".join((head, *blobs)), len(head)


def read_outputs(body: bytes, json_length: int | None) -> tuple[str, dict[str, Array]]:
    """Return the version and the tensors of an answer.

    Args:
        body: the whole body.
        json_length: size of its JSON part, bytes; None without binary data.

    Raises:
        BackendFailed: the body is not a v2 answer.
    """
    try:
        size = len(body) if json_length is None else json_length
        head = orjson.loads(body[:size])
        tensors = _read(head["outputs"], memoryview(body)[size:])
        return str(head["model_version"]), tensors
    except (ValueError, KeyError, TypeError, struct.error, Malformed) as error:
        raise BackendFailed(f"Triton's answer can't be read: {type(error).__name__} {error}") from error


def read_inputs(request: Mapping[str, Any], binary: memoryview) -> dict[str, Array]:
    """Return the tensors of a checked request; raises Malformed when values don't fit their type."""
    try:
        return _read(request["inputs"], binary)
    except (ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise Malformed(f"An input can't be read: {error}") from error


def _read(entries: Any, binary: memoryview) -> dict[str, Array]:
    tensors = {}
    for entry in entries:
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = _from_json(entry)
        else:
            array = from_bytes(binary[:size], entry["datatype"])
            binary = binary[size:]
        tensors[str(entry["name"])] = array.reshape(entry["shape"])
    return tensors


def _from_json(entry: Mapping[str, Any]) -> Array:
    dtype = NUMPY_TYPES.get(entry["datatype"])
    if dtype is None:
        raise Malformed(f"Datatype {entry['datatype']!r} of {entry['name']!r} is not known here.")
    flat = _flat(entry["data"])
    if dtype is np.object_:
        return np.array([str(item).encode() for item in flat], dtype=np.object_)
    expected = (bool,) if dtype is np.bool_ else (int,) if np.issubdtype(dtype, np.integer) else (int, float)
    if any(type(item) not in expected for item in flat):
        raise Malformed(f"The data of {entry['name']!r} is not all {entry['datatype']}.")
    return np.array(flat, dtype=dtype)


def _flat(data: list[Any]) -> list[Any]:
    while any(isinstance(item, list) for item in data):
        data = [inner for item in data for inner in (item if isinstance(item, list) else [item])]
    return data


def to_bytes(array: Array) -> bytes:
    """Return an array as binary tensor data: little-endian, row-major, each text after its length."""
    if array.dtype.kind in "OUS":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_bytes(data: memoryview, name: str) -> Array:
    """Return binary tensor data as a flat array; raises Malformed when it does not fit its datatype."""
    dtype = NUMPY_TYPES.get(name)
    if dtype is None:
        raise Malformed(f"Datatype {name!r} is not known here.")
    if dtype is not np.object_:
        return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))
    items, offset = [], 0
    while offset < len(data):
        (size,) = struct.unpack_from("<I", data, offset)
        offset += 4 + size
        if offset > len(data):
            raise Malformed("A text is cut off.")
        items.append(bytes(data[offset - size : offset]))
    return np.array(items, dtype=np.object_)


def to_json(array: Array) -> list[Any]:
    """Return an array as nested lists of texts or numbers; orjson writes NaN and infinity as null."""
    if array.dtype.kind in "OUS":
        texts = [
            item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.flat
        ]
        nested: list[Any] = np.array(texts, dtype=np.object_).reshape(array.shape).tolist()
        return nested
    values: list[Any] = array.tolist()
    return values
