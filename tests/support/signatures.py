"""Reads the inputs and outputs of a model in this process, for tests that deploy the same models again and again."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import pytest

from ml_code.triton_deploy.model import onnx_model
from ml_code.triton_deploy.model.signature import Port, Signature


@functools.cache
def _signature(content: bytes) -> Signature:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs, outputs = (
        tuple(
            Port(node.name, node.type, tuple(size if isinstance(size, int) else -1 for size in node.shape))
            for node in nodes
        )
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return Signature(onnxruntime.__version__, inputs, outputs)


@contextmanager
def signed_here() -> Iterator[None]:
    """Start no process for the models that are deployed in the block."""

    def sign(model_file: Path, limits: object) -> Signature:
        return _signature(model_file.read_bytes())

    defaults = onnx_model.inspect.__kwdefaults__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "sign", sign)
        yield
