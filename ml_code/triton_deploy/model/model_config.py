"""Triton configurations, generated from a model's schema: one for the engine, one for the switch.

A configuration is a dict in the JSON form of Triton's ``ModelConfig`` message; ``to_pbtxt`` gives the
text that goes on disk. Source of the field names and rules: ``model_config.proto`` of
triton-inference-server/common and the model configuration page of Triton's user guide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ArtifactRejected
from ..rules.names import engine_name
from ..rules.schema import Schema, Tensor
from . import engine_options


def check_options(options: object, schema: Schema) -> dict[str, Any]:
    """Return a version's options if its configuration may carry them.

    Args:
        options: decoded ``triton/config.json``.
        schema: the model's inputs and outputs.

    Raises:
        ArtifactRejected: Triton can't serve the model's tensors, or the options are refused: see
            engine_options.check.
    """
    check_tensors(schema)
    checked = engine_options.check(options, schema)
    to_pbtxt(engine_config("check", 1, schema, checked))
    return checked


def check_tensors(schema: Schema) -> None:
    """Refuse a model that ONNX Runtime can run, but for which Triton takes no configuration.

    Raises:
        ArtifactRejected: it has no inputs, or a tensor with a dimension of 0 (ValidateIOShape and
            ValidateEnsembleSchedulingConfig in Triton's core).
    """
    if not schema.inputs:
        raise ArtifactRejected(
            "The model has no inputs, and Triton refuses the ensemble that clients would call: must specify 'input_map' in step 0 of ensemble.",
            hint="Give the model an input, be it one that it adds 0 times, and log it again as a new version.",
        )
    named = [("input", tensor) for tensor in schema.inputs] + [
        ("output", tensor) for tensor in schema.outputs
    ]
    for role, tensor in named:
        if 0 in tensor.shape:
            raise ArtifactRejected(
                f"Triton refuses the model's {role} {tensor}: dimension must be integer >= 1, or -1 to indicate a variable-size dimension.",
                hint="Export the model with that dimension dynamic or at least 1, and log it again as a new version.",
            )


def engine_config(model: str, version: int, schema: Schema, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the Triton model that holds one version's weights.

    ``max_batch_size`` is 0 unless the options set it: Triton then passes requests of any batch size on
    and stacks none.

    Args:
        model: public model name.
        version: model version.
        schema: inputs and outputs, batch dimension included.
        options: options that ``check_options`` returned.
    """
    batched = bool(options.get("max_batch_size"))
    return {
        "name": engine_name(model, version),
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [version]}},
        **_tensors(schema, batched, reshaped=True),
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        **options,
    }


def switch_config(model: str, version: int, schema: Schema, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the public model: an ensemble with one step, the engine of a version.

    The ensemble's own version has the same number, so responses and metrics of the public model name the
    version.

    Args:
        model: public model name.
        version: the version whose engine is called.
        schema: that version's inputs and outputs.
        options: that version's options.
    """
    step = {
        "model_name": engine_name(model, version),
        "model_version": version,
        "input_map": {tensor.name: tensor.name for tensor in schema.inputs},
        "output_map": {tensor.name: tensor.name for tensor in schema.outputs},
    }
    return {
        "name": model,
        "platform": "ensemble",
        "max_batch_size": options.get("max_batch_size", 0),
        "version_policy": {"specific": {"versions": [version]}},
        **_tensors(schema, bool(options.get("max_batch_size")), reshaped=False),
        "ensemble_scheduling": {"step": [step]},
    }


def to_pbtxt(config: Mapping[str, Any]) -> str:
    """Return a configuration as the text of a ``config.pbtxt``.

    Raises:
        ArtifactRejected: Triton's message has no such field, or the field takes no such value.
    """
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        message = json_format.ParseDict(_wire(config), model_config_pb2.ModelConfig())
    except json_format.ParseError as error:
        raise ArtifactRejected(
            f"Triton's model configuration can't hold this: {error}.",
            hint="Correct triton/config.json of the model version.",
        ) from error
    return text_format.MessageToString(message)


def to_json(config: Mapping[str, Any]) -> str:
    """Return a configuration as the JSON that a load request carries as an override."""
    return json.dumps(_wire(config))


def json_of(text: str, model: str, version: int) -> str:
    """Return the text of a switch's ``config.pbtxt`` as the JSON that a load request carries.

    Raises:
        ValueError: the text is not the configuration of a switch to this version.
    """
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"its config.pbtxt can't be read: {error}") from error
    if [step.model_name for step in message.ensemble_scheduling.step] != [engine_name(model, version)]:
        raise ValueError(f"its config.pbtxt is not that of version {version}")
    return str(json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None))


def _wire(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with parameters in the message's form, ``{"key": {"string_value": "…"}}``."""
    wire = dict(config)
    if "parameters" in wire:
        wire["parameters"] = {
            key: value if isinstance(value, dict) else {"string_value": str(value)}
            for key, value in wire["parameters"].items()
        }
    return wire


def _tensors(schema: Schema, batched: bool, *, reshaped: bool) -> dict[str, Any]:
    return {
        "input": [_tensor(tensor, batched, reshaped) for tensor in schema.inputs],
        "output": [_tensor(tensor, batched, reshaped) for tensor in schema.outputs],
    }


def _tensor(tensor: Tensor, batched: bool, reshaped: bool) -> dict[str, Any]:
    dims = list(tensor.shape[1:] if batched else tensor.shape)
    entry: dict[str, Any] = {
        "name": tensor.name,
        "data_type": "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}",
        "dims": dims or [1],
    }
    # Triton has no empty dims: a scalar is one element to clients. Behind a batch dimension it is reshaped
    # to rank 0 on its way to the backend; without one Triton refuses that, and NVIDIA's backend takes one
    # element for a scalar.
    if not dims and reshaped and batched:
        entry["reshape"] = {"shape": []}
    if tensor.optional:
        entry["optional"] = True
    return entry
