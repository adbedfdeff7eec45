"""The shapes that a Triton reports for an engine, for a deploy whose own shapes that Triton refuses.

A backend completes a configuration without inputs and outputs from its own session of the model. A load
with such a configuration, and a look at what it became, tells how that Triton's ONNX Runtime sees the file.

NVIDIA's backend completes more than the shapes: where every first dimension is open, ``max_batch_size`` 0
becomes the backend's default, and the dims lose their first place (``AutoCompleteMaxBatch`` and
``AutoCompleteIO`` in ``onnxruntime_backend/src/onnxruntime.cc``). So the load that asks is not to be
served, and carries no inputs either: the backend would compare them with the changed ``max_batch_size``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from ..rules.names import engine_name
from ..rules.schema import Schema, Tensor
from ..rules.version_files import Manifest

OF_THE_SESSION = ("optimization", "instance_group", "parameters")
"""Options that decide how ONNX Runtime opens the model; the others need tensors or a batch."""


def asking_config(model: str, manifest: Manifest) -> dict[str, Any]:
    """Return a version's engine configuration without tensors, which the backend completes.

    Args:
        model: public model name.
        manifest: the version.
    """
    options = {key: manifest.options[key] for key in OF_THE_SESSION if key in manifest.options}
    return {
        "name": engine_name(model, manifest.version),
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        **options,
    }


def reported_schema(config: Mapping[str, Any], known: Schema) -> Schema:
    """Return a model's schema with the shapes of a completed configuration.

    Args:
        config: the completed configuration, in the JSON form of Triton's ``ModelConfig`` message.
        known: the schema as the deployer knows it.

    Raises:
        ValueError: the configuration lacks a tensor, gives one another type, or is no configuration.
    """
    batched = int(config.get("max_batch_size", 0)) > 0
    inputs, outputs = (
        tuple(_with_shape_of(tensor, _named(config.get(key, ()), tensor), batched) for tensor in tensors)
        for key, tensors in (("input", known.inputs), ("output", known.outputs))
    )
    return Schema(inputs, outputs)


def _named(entries: Sequence[Mapping[str, Any]], tensor: Tensor) -> Mapping[str, Any] | None:
    found = next((entry for entry in entries if entry.get("name") == tensor.name), None)
    if found is None and not tensor.optional:
        raise ValueError(f"the completed configuration lacks {tensor.name!r}")
    return found


def _with_shape_of(tensor: Tensor, entry: Mapping[str, Any] | None, batched: bool) -> Tensor:
    if entry is None:
        # No backend completes an input with a default in the file.
        return tensor
    datatype = str(entry.get("data_type", "")).removeprefix("TYPE_")
    if datatype != ("STRING" if tensor.datatype == "BYTES" else tensor.datatype):
        raise ValueError(f"the completed configuration gives {tensor.name!r} the type {datatype!r}")
    given = entry["reshape"].get("shape", ()) if "reshape" in entry else entry.get("dims", ())
    dims = tuple(int(size) for size in given)
    if any(not (size == -1 or 0 <= size < 2**63) for size in dims):
        raise ValueError(f"the completed configuration gives {tensor.name!r} the dims {list(dims)}")
    shape = (-1, *dims) if batched else dims
    # Without a batch dimension a scalar and a list of one have the same configuration.
    return tensor if shape == (1,) and not tensor.shape else replace(tensor, shape=shape)


def runtime_version() -> str:
    """Return the version of this machine's ONNX Runtime."""
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    import onnxruntime

    return str(onnxruntime.__version__)
