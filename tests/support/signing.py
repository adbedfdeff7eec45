"""A fake of ``model.signature.signature_of``: it starts no process, and takes the shapes that the file declares."""

from __future__ import annotations

from pathlib import Path

import onnx

from ml_code.triton_deploy.model.onnx_model import DATATYPES, RUNTIME_TYPES
from ml_code.triton_deploy.model.reference_limits import Limits
from ml_code.triton_deploy.model.signature import Port, Signature

_TYPES = dict(zip(DATATYPES, RUNTIME_TYPES, strict=True))


def declared(model_file: Path, limits: Limits) -> Signature:
    """Return inputs and outputs as the file declares them."""
    model = onnx.load(str(model_file), load_external_data=False)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return Signature("declared", tuple(map(_port, inputs)), tuple(map(_port, model.graph.output)))


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    shape = (one.dim_value if one.HasField("dim_value") else -1 for one in tensor.shape.dim)
    return Port(value.name, _TYPES[onnx.TensorProto.DataType.Name(tensor.elem_type)], tuple(shape))
