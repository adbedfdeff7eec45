"""Completes a model's configuration from its ONNX file, and checks the configuration against the file.

The rules are those of NVIDIA's backend: project triton-inference-server/onnxruntime_backend,
``src/onnxruntime.cc`` (``AutoCompleteConfig``, ``ValidateInputs``, ``ValidateOutputs``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

UNSUPPORTED_KEYS = ("sequence_batching", "batch_input", "batch_output", "model_operations")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TRITON_TYPES = {f"tensor({name})": f"TYPE_{name.upper()}" for name in (*INTEGERS, "bool", "string")}
TRITON_TYPES["tensor(float16)"] = "TYPE_FP16"
TRITON_TYPES |= {"tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64"}
TYPE_HINTS = {
    "tensor(bfloat16)": "; NumPy has no such type: export it as FP16 or FP32",
    "seq(map": "; export it as a tensor (skl2onnx: options={'zipmap': False})",
}


class ModelError(Exception):
    """A model, its configuration or a request cannot be served; the text says what and why."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the ONNX file declares it.

    Attributes:
        data_type: Triton's name of the type.
        shape: the dimensions; -1 for an open one.
    """

    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """The tensors of an ONNX file by name, in the file's order.

    Attributes:
        inputs: required inputs.
        outputs: outputs.
        initializers: inputs with a default in the file; a request may leave them out.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    initializers: dict[str, TensorInfo]

    @property
    def supports_batching(self) -> bool:
        """Whether the first dimension of every input and output is open."""
        tensors = (*self.inputs.values(), *self.outputs.values())
        return all(tensor.shape[:1] == (-1,) for tensor in tensors)


def read_signature(session: Any) -> Signature:
    """Return the tensors of the session's file.

    Raises:
        ModelError: an input or output is no tensor, or of an unsupported type.
    """
    return Signature(
        inputs=_tensor_infos("input", session.get_inputs()),
        outputs=_tensor_infos("output", session.get_outputs()),
        initializers=_tensor_infos("input", session.get_overridable_initializers()),
    )


def _tensor_infos(role: str, nodes: Iterable[Any]) -> dict[str, TensorInfo]:
    infos = {}
    for node in nodes:
        if node.type not in TRITON_TYPES:
            hint = next((h for start, h in TYPE_HINTS.items() if node.type.startswith(start)), "")
            raise ModelError(f"{role} '{node.name}' is of unsupported type {node.type}{hint}")
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)
        infos[node.name] = TensorInfo(TRITON_TYPES[node.type], shape)
    return infos


def complete_config(config: Config, signature: Signature, default_max_batch_size: int) -> Config:
    """Return the configuration, with missing parts filled in from the ONNX file.

    A ``max_batch_size`` of 0 becomes the default when the file supports batching. Above 1 dynamic batching
    is turned on unless a scheduler is set. Inputs and outputs are filled in if there are none. Inputs with
    a default in the file are not added: they are optional, and only a person knows whether clients should
    see them.

    Raises:
        ModelError: ``max_batch_size`` is set, but a first dimension in the file is not open.
    """
    max_batch_size = config.get("max_batch_size", 0)
    if signature.supports_batching:
        max_batch_size = max_batch_size or max(default_max_batch_size, 0)
    elif max_batch_size > 0:
        reason = "a first dimension of an input or output in the file is fixed"
        raise ModelError(f"max_batch_size is {max_batch_size}, but {reason}")
    completed = {**config, "max_batch_size": max_batch_size}
    if max_batch_size > 1 and not config.keys() & {"dynamic_batching", "sequence_batching"}:
        completed["dynamic_batching"] = {}
    for key, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        if not config.get(key):
            batched = max_batch_size > 0
            completed[key] = [_tensor_config(n, info, batched) for n, info in tensors.items()]
    return completed


def _tensor_config(name: str, info: TensorInfo, batched: bool) -> Config:
    dims = list(info.shape[1:] if batched else info.shape)
    tensor = {"name": name, "data_type": info.data_type, "dims": dims or [1]}
    # Triton allows no empty dims, and a reshape to a scalar only behind a batch dimension.
    return tensor | {"reshape": {"shape": []}} if batched and not dims else tensor


def validate_config(config: Config, signature: Signature) -> None:
    """Check a complete configuration against the ONNX file.

    The configuration must have all required inputs of the file, and may have a part of its outputs. An open
    dimension of an input takes any size; dimensions of outputs must be equal.

    Raises:
        ModelError: an unsupported feature, or a wrong name, type or dimension; the text names the tensor,
            and has both the file's and the configuration's value.
    """
    if refused := [key for key in UNSUPPORTED_KEYS if config.get(key)]:
        raise ModelError(f"not supported by this Python-based backend: {', '.join(refused)}")
    batched, tensors = config["max_batch_size"] > 0, config["input"]
    for tensor in tensors:
        if tensor.get("allow_ragged_batch"):
            raise ModelError(f"input '{tensor['name']}': allow_ragged_batch is not supported")
        _validate_tensor("input", tensor, signature.inputs | signature.initializers, batched)
    optional = {tensor["name"] for tensor in tensors if tensor.get("optional")}
    names = {tensor["name"] for tensor in tensors}
    for name in signature.inputs.keys() - names:
        raise ModelError(f"input '{name}' of the file is required, but the configuration lacks it")
    for name in optional ^ (names & signature.initializers.keys()):
        raise ModelError(f"input '{name}': 'optional' must be true just if the file has a default")
    if optional and batched:
        raise ModelError(f"input '{min(optional)}' is optional: max_batch_size must be 0")
    for tensor in config["output"]:
        _validate_tensor("output", tensor, signature.outputs, batched)


def _validate_tensor(role: str, tensor: Config, infos: dict[str, TensorInfo], batched: bool) -> None:
    label = f"{role} '{tensor['name']}'"
    info = infos.get(tensor["name"])
    if info is None:
        raise ModelError(f"the configuration names {label}, but the file has {sorted(infos)}")
    if tensor["data_type"] != info.data_type:
        types = f"the file has {info.data_type}, the configuration says {tensor['data_type']}"
        raise ModelError(f"{label}: {types}")
    dims = [-1] * batched + configured_dims(tensor)
    if info.shape:
        fits = len(info.shape) == len(dims) and all(
            have == said or (role == "input" and have == -1)
            for have, said in zip(info.shape, dims, strict=True)
        )
    else:  # a scalar, or a tensor whose rank the file leaves open
        fits = all(dim == 1 for dim in dims)
    if not fits:
        said = f"{dims}, the first because max_batch_size is above 0" if batched else f"{dims}"
        raise ModelError(f"{label}: the file has {list(info.shape)}, the configuration says {said}")


def configured_dims(tensor: Config) -> list[int]:
    """Return the dimensions that the ONNX file sees: those of ``reshape`` if the tensor has one."""
    dims = tensor["reshape"].get("shape", []) if "reshape" in tensor else tensor["dims"]
    return [int(dim) for dim in dims]
