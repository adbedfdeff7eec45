"""Models from ONNX's text format, for the made cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .case import Array, Case, Example

Edit = Callable[[Any], object]
"""Changes a ``ModelProto`` in place before it is written."""


def text_case(
    name: str,
    signature: str,
    nodes: str,
    inputs: Mapping[str, Any],
    *,
    opset: int = 17,
    ir: int = 0,
    domains: Mapping[str, int] | None = None,
    functions: str = "",
    weights: Mapping[str, Array] | None = None,
    edit: Edit | None = None,
    example: Example = "golden",
    config: Mapping[str, object] | None = None,
    refused: str = "",
) -> Case:
    """Return the case of a model in ONNX's text format.

    Args:
        name: of the case.
        signature: inputs and outputs, such as ``(float[N,3] x) => (float[N,3] y)``. ``float`` is a scalar, ``float[]`` has any rank.
        nodes: the nodes, one a line.
        inputs: what it is asked.
        opset: of the default domain.
        ir: IR version; 0 for the lowest that has the opset.
        domains: opsets of other domains.
        functions: local functions, in the text format.
        weights: initializers.
        edit: what the text format can't say.
        example: how the inputs are logged.
        config: ``triton/config.json``.
        refused: part of the expected refusal.
    """

    def write(folder: Path) -> None:
        save(text_model(signature, nodes, opset, ir, domains or {}, functions, weights or {}, edit), folder)

    arrays = {key: np.asarray(value) for key, value in inputs.items()}
    return Case(name, "made", write, arrays, example, config or {}, refused)


def text_model(
    signature: str,
    nodes: str,
    opset: int = 17,
    ir: int = 0,
    domains: Mapping[str, int] | None = None,
    functions: str = "",
    weights: Mapping[str, Array] | None = None,
    edit: Edit | None = None,
) -> Any:
    """Return the ``ModelProto`` of a text: see ``text_case``."""
    from onnx import helper, numpy_helper, parser

    opsets = {"": opset, **(domains or {})}
    ir = ir or min(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]), 13)
    imports = ", ".join(f'"{domain}" : {version}' for domain, version in opsets.items())
    model = parser.parse_model(
        f"<ir_version: {ir}, opset_import: [{imports}]>\nmade {signature} {{\n{nodes}\n}}\n{functions}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in (weights or {}).items()
    )
    if edit:
        edit(model)
    return model


def save(model: Any, folder: Path) -> None:
    """Write a model as it is: ONNX's own ``save`` takes a look at it first."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def renamed(names: Mapping[str, str]) -> Edit:
    """Return what gives tensors of the main graph other names."""

    def edit(model: Any) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = names.get(value.name, value.name)
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]

    return edit


def as_inputs(model: Any) -> None:
    """Make initializers inputs too: IR 3 has them so, and clients may override them where later IR versions do."""
    from onnx import helper

    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Return normally distributed numbers, the same ones in each run."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def texts(*values: Any, shape: Sequence[int] = (-1,)) -> Array:
    """Return strings as ONNX Runtime takes them."""
    return np.array(values, dtype=np.object_).reshape(shape)
