"""KServe v2 without a Triton: tensors of the local model, as JSON or binary data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.schema import Schema
from ..http.errors import Malformed
from ..v2.tensors import datatype, read_inputs, to_bytes, to_json


def inputs_of(request: Mapping[str, Any], binary: memoryview, schema: Schema) -> dict[str, Array]:
    """Return the tensors of a request that ``v2.guard`` has checked.

    Raises:
        Malformed: they do not fit the inputs of the model.
    """
    given = read_inputs(request, binary)
    known = {tensor.name: tensor for tensor in schema.inputs}
    for name, array in given.items():
        tensor = known.get(name)
        if tensor is None:
            raise Malformed(f"Unexpected inference input {name!r}; the model has {', '.join(known)}.")
        fits = len(array.shape) == len(tensor.shape) and all(
            want in (-1, got) for want, got in zip(tensor.shape, array.shape, strict=True)
        )
        if datatype(array) != tensor.datatype or not fits:
            raise Malformed(f"Input {name!r} is {datatype(array)}{list(array.shape)}, expected {tensor}.")
    missing = [name for name, tensor in known.items() if name not in given and not tensor.optional]
    if missing:
        raise Malformed(f"Inputs are missing: {', '.join(missing)}.")
    return given


def response(
    request: Mapping[str, Any], model: str, version: str, outputs: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the size of its JSON part, bytes, when binary data follows it.

    Raises:
        Malformed: the request names an output that the model does not have.
    """
    wanted = request.get("outputs") or [{"name": name} for name in outputs]
    by_default = (request.get("parameters") or {}).get("binary_data_output", False)
    entries, blobs = [], []
    for want in wanted:
        name = want.get("name")
        if name not in outputs:
            raise Malformed(
                f"Unexpected inference output {str(name)[:100]!r}; the model has {', '.join(outputs)}."
            )
        array = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": datatype(array), "shape": list(array.shape)}
        if (want.get("parameters") or {}).get("binary_data", by_default):
            blobs.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = to_json(array.reshape(-1))
        entries.append(entry)
    identity = {"id": request["id"]} if request.get("id") else {}
    head = orjson.dumps({**identity, "model_name": model, "model_version": version, "outputs": entries})
    return b"".join((head, *blobs)), len(head) if blobs else None


def headers(length: int, json_length: int | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that ``response`` made; both sizes in bytes."""
    size = (b"content-length", b"%d" % length)
    if json_length is None:
        return [size, (b"content-type", b"application/json")]
    return [
        size,
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"%d" % json_length),
    ]


def metadata(model: str, version: str, schema: Schema) -> dict[str, Any]:
    """Return a model's metadata in Triton's form."""

    def side(tensors: Any) -> list[dict[str, Any]]:
        return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in tensors]

    return {
        "name": model,
        "versions": [version],
        "platform": "local",
        "inputs": side(schema.inputs),
        "outputs": side(schema.outputs),
    }
