"""An ONNX file without its weights, in memory that does not grow with the model.

Protocol Buffers' libraries read a message whole. This module walks over the file instead and leaves out the
bytes of large tensors. For ONNX's checker such a tensor becomes one element of its type (``outline``). For
ONNX Runtime it becomes external data that lies in the file itself (``linked_outline``): the runtime maps
it, and reads only what it computes with. Everything else stays as it is. Sources: Protocol Buffers'
encoding (protobuf.dev/programming-guides/encoding) and the field numbers of ``onnx.proto``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import onnx
    from onnx.external_data_helper import ExternalDataInfo

LARGE_BYTES = 4096
"""A smaller field is copied without being parsed."""
MAX_DEPTH = 100
"""Deepest nesting of messages, as in Protocol Buffers' own libraries."""

ELEMENT_BYTES = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 1),
    **dict.fromkeys((4, 5, 10, 16), 2),
    **dict.fromkeys((1, 6, 12), 4),
    **dict.fromkeys((7, 11, 13, 14), 8),
    15: 16,
}
"""Size of an element by ``TensorProto.DataType``, bytes.

Types without a size, strings and those packed below a byte, are copied whole.
"""

_VARINT, _BYTES = 0, 2
_LENGTHS = {1: 8, 5: 4}
_DIMS, _DATA_TYPE, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 9, 13, 14
_EXTERNAL = 1
"""``TensorProto.DataLocation`` of data in another file."""
_TENSOR = "TensorProto"
_LARGE_FIELDS: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: _TENSOR, 6: "GraphProto", 10: _TENSOR, 11: "GraphProto"},
}
"""The fields that may hold tensors: for each message type, the message type of the field by its number."""


def external_tensors(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, ExternalDataInfo]]:
    """Yield each tensor whose data is in another file, with ONNX's description of the place."""
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    for tensor in _get_all_tensors(model):
        if uses_external_data(tensor):
            yield tensor, ExternalDataInfo(tensor)


def outline(model_file: Path) -> bytes:
    """Return a model, serialized, in which every large tensor is one element.

    Args:
        model_file: a file that holds a ``ModelProto``.

    Raises:
        ValueError: the file holds no Protocol Buffers message, or only a part of one.
        OSError: the file can't be read.
    """
    return _outlined(model_file, _one_element)


def linked_outline(model_file: Path) -> bytes:
    """Return a serialized model whose large tensors are external data, each at its place in the model's file.

    ONNX Runtime opens these bytes with the file's folder as the folder of external data. External data of
    the model itself stays where it is.

    Args:
        model_file: a file that holds a ``ModelProto``.

    Raises:
        ValueError: the file holds no Protocol Buffers message, or only a part of one.
        OSError: the file can't be read.
    """

    def link(file: BinaryIO, begin: int, end: int) -> bytes:
        return _linked_tensor(file, begin, end, model_file.name)

    return _outlined(model_file, link)


_TensorWriter = Callable[[BinaryIO, int, int], bytes]
"""Returns what a large tensor between two offsets of the file becomes."""


def _outlined(model_file: Path, tensor: _TensorWriter) -> bytes:
    with model_file.open("rb") as file:
        return _message(file, "ModelProto", 0, os.fstat(file.fileno()).st_size, 0, tensor)


@dataclass(frozen=True)
class _Field:
    """A field in the file.

    Attributes:
        number: the field's number in the message's definition.
        wire_type: the encoding of its value.
        begin: offset of its tag, bytes.
        value: offset of its value, bytes.
        end: offset of the byte after its value.
    """

    number: int
    wire_type: int
    begin: int
    value: int
    end: int


def _message(file: BinaryIO, kind: str, begin: int, end: int, depth: int, tensor: _TensorWriter) -> bytes:
    """Return a message without the bytes of large tensors."""
    if depth > MAX_DEPTH:
        raise ValueError(f"its messages lie in each other more than {MAX_DEPTH} deep")
    if kind == _TENSOR:
        return tensor(file, begin, end)
    out = bytearray()
    for field in _fields(file, begin, end):
        inner = _LARGE_FIELDS[kind].get(field.number)
        if inner and field.wire_type == _BYTES and field.end - field.value >= LARGE_BYTES:
            out += _delimited(field.number, _message(file, inner, field.value, field.end, depth + 1, tensor))
        else:
            out += _read(file, field.begin, field.end)
    return bytes(out)


def _linked_tensor(file: BinaryIO, begin: int, end: int, location: str) -> bytes:
    """Return a tensor that refers to its bytes in a file.

    A tensor without raw bytes, or with external data, is returned as it is.
    """
    fields = list(_fields(file, begin, end))
    raw = [field for field in fields if field.number == _RAW_DATA and field.wire_type == _BYTES]
    places = [_varint_at(file, field) for field in fields if field.number == _DATA_LOCATION]
    elsewhere = _EXTERNAL in places or any(field.number == _EXTERNAL_DATA for field in fields)
    if len(raw) != 1 or elsewhere:
        return _read(file, begin, end)
    # A location that says "here" stays: of a field that comes twice the last one counts.
    kept = (_read(file, field.begin, field.end) for field in fields if field.number != _RAW_DATA)
    place = {"location": location, "offset": str(raw[0].value), "length": str(raw[0].end - raw[0].value)}
    entries = (
        _delimited(_EXTERNAL_DATA, _delimited(1, key.encode()) + _delimited(2, value.encode()))
        for key, value in place.items()
    )
    return b"".join([*kept, *entries, _written(_DATA_LOCATION << 3 | _VARINT), _written(_EXTERNAL)])


def _one_element(file: BinaryIO, begin: int, end: int) -> bytes:
    """Return one element of a tensor if its data have the size of its shape, else the tensor as it is."""
    fields = list(_fields(file, begin, end))
    raw = [field for field in fields if field.number == _RAW_DATA and field.wire_type == _BYTES]
    types = [_varint_at(file, field) for field in fields if field.number == _DATA_TYPE]
    element = ELEMENT_BYTES.get(types[-1]) if types else None
    shape = [size for field in fields if field.number == _DIMS for size in _sizes(file, field)]
    if len(raw) != 1 or element is None or raw[0].end - raw[0].value != math.prod(shape) * element:
        return _read(file, begin, end)
    kept = (_read(file, field.begin, field.end) for field in fields if field.number not in (_DIMS, _RAW_DATA))
    return b"".join([*kept, _delimited(_RAW_DATA, bytes(element))])


def _sizes(file: BinaryIO, field: _Field) -> Iterator[int]:
    """Yield the numbers of a repeated field, whether it is packed or not."""
    if field.wire_type == _VARINT:
        yield _varint_at(file, field)
        return
    file.seek(field.value)
    while file.tell() < field.end:
        yield _varint(file)


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[_Field]:
    """Yield the fields of the message between two offsets."""
    at = begin
    while at < end:
        file.seek(at)
        tag = _varint(file)
        number, wire_type = tag >> 3, tag & 7
        length = _varint(file) if wire_type == _BYTES else _LENGTHS.get(wire_type)
        value = file.tell()
        if wire_type == _VARINT:
            _varint(file)
            length = file.tell() - value
        if length is None:
            raise ValueError(f"byte {at} begins no field of a message")
        after = value + length
        if after > end or not number:
            raise ValueError(f"the field at byte {at} does not end where its message does")
        yield _Field(number, wire_type, at, value, after)
        at = after


def _varint_at(file: BinaryIO, field: _Field) -> int:
    file.seek(field.value)
    return _varint(file)


def _varint(file: BinaryIO) -> int:
    number = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends in the middle of a number")
        number |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return number
    raise ValueError("it has a number of more than ten bytes")


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    data = file.read(end - begin)
    if len(data) != end - begin:
        raise ValueError("it ends early")
    return data


def _delimited(number: int, data: bytes) -> bytes:
    """Return a field of bytes, with its tag and length."""
    return _written(number << 3 | _BYTES) + _written(len(data)) + data


def _written(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
