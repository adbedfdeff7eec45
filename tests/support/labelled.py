"""Classifiers and labelled rows, made by hand so that it is plain which is right about which."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ml_code.training.heldout import HeldOut

GOOD, BAD = [[-4.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [-4.0, 4.0]]
"""Weights of classifiers that look at the first input, and at the second."""


def classifier(weights: Any) -> onnx.ModelProto:
    """A model of two inputs ``x`` with the ``probabilities`` of two classes."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(weights, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def labelled(says: int, seed: int, count: int = 200) -> HeldOut:
    """Rows whose class is the sign of one of both inputs, 0 or 1; the other one is noise."""
    x = np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)
    return HeldOut({"x": x}, (x[:, says] > 0).astype(np.int64), "classification")
