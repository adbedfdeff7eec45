"""Small ONNX models for tests, made by hand, so that the fault of each is plain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def times(
    factor: float,
    *,
    columns: int = 2,
    source: str = "x",
    target: str = "y",
    opset: int = 17,
    ir_version: int = 9,
) -> onnx.ModelProto:
    """``y = x * factor`` on rows of ``columns`` numbers; NaN as the factor makes every answer NaN."""
    graph = helper.make_graph(
        [helper.make_node("Mul", [source, "factor"], [target])],
        "times",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", columns])],
        [numpy_helper.from_array(np.full(columns, factor, np.float32), "factor")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def open_columns(factor: float, *, columns: int = 2) -> onnx.ModelProto:
    """``times`` whose number of columns in the answer no runtime infers: ``Compress`` takes all of them."""
    model = times(factor, columns=columns)
    model.graph.node[0].output[0] = "product"
    model.graph.node.append(helper.make_node("Compress", ["product", "all"], ["y"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(columns, np.bool_), "all"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "columns"
    return model


def folded(factor: float) -> onnx.ModelProto:
    """``times`` whose answer has its columns from a constant that has to be computed: known only where constants are folded."""
    model = times(factor)
    model.graph.node[0].output[0] = "product"
    model.graph.node.extend(
        [
            helper.make_node("Floor", ["sizes"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["shape"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["product", "shape"], ["y"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 2.5], np.float32), "sizes"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "columns"
    return model


def picky(factor: float) -> onnx.ModelProto:
    """``times`` for rows whose last number is 2 or more, as in its golden inputs; ONNX Runtime fails on others."""
    graph = helper.make_graph(
        [
            helper.make_node("Less", ["x", "two"], ["small"]),
            helper.make_node("Cast", ["small"], ["each"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["each"], ["place"], axes=[0], keepdims=0),
            # The only place that exists is the first one: 0.
            helper.make_node("Gather", ["factors", "place"], ["factor"]),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
        ],
        "picky",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.array([-1e9, 2], np.float32), "two"),
            numpy_helper.from_array(np.full(1, factor, np.float32), "factors"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def external(location: str, factor: float = 3.0, rows: int = 1) -> tuple[bytes, bytes]:
    """``times`` with its factor in a file ``location``: the model's bytes, and the bytes of that file."""
    model = times(factor)
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model.SerializeToString(), data


def unknown_operator() -> onnx.ModelProto:
    """A model that ONNX's checker lets through and ONNX Runtime refuses."""
    model = times(2.0)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Nonsense", "nobody.knows"
    model.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    return model


def golden(factor: float, *, columns: int = 2, source: str = "x", target: str = "y", **extra: Any) -> bytes:
    """The ``triton/golden.json`` of ``times``."""
    row = [float(i + 1) for i in range(columns)]
    tensor = {"datatype": "FP32", "shape": [1, columns]}
    return json.dumps(
        {
            "inputs": [{"name": source, **tensor, "data": row}],
            "outputs": [{"name": target, **tensor, "data": [v * factor for v in row]}],
            **extra,
        }
    ).encode()


def files(model: onnx.ModelProto | bytes, **named: bytes) -> dict[str, bytes]:
    """An artifact directory: ``model.onnx`` and others by path, with ``__`` for ``/`` and ``_json`` for ``.json``."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    others = {name.replace("__", "/").replace("_json", ".json"): data for name, data in named.items()}
    return {"model.onnx": content, **others}


def for_a_gpu(factor: float) -> dict[str, bytes]:
    """The files of ``times``, which ONNX Runtime opens here, and which no Triton loads without a GPU."""
    options = {"instance_group": [{"kind": "KIND_GPU", "count": 1}]}
    return files(
        times(factor), triton__golden_json=golden(factor), triton__config_json=json.dumps(options).encode()
    )


def write(folder: Path, artifact: dict[str, bytes]) -> Path:
    """Write an artifact directory and return it."""
    for name, data in artifact.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def slow(factor: float, *, columns: int = 2, products: int = 80) -> onnx.ModelProto:
    """``times``, and for nothing the products of large matrices in each request: 10 GFLOP, a tenth of a second and more."""
    model = times(factor, columns=columns)
    graph = model.graph
    size, rows = 512, 256
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.full((1, size), 1e-3, np.float32), "wide"),
            numpy_helper.from_array(np.full((rows, 1), 1.0, np.float32), "tall"),
            numpy_helper.from_array(np.full((size, size), 1e-3, np.float32), "square"),
            numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
        ]
    )
    graph.node[0].output[0] = "product"
    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["tall", "sum"], ["column"]),
            helper.make_node("MatMul", ["column", "wide"], ["step0"]),
            *(helper.make_node("MatMul", [f"step{n}", "square"], [f"step{n + 1}"]) for n in range(products)),
            helper.make_node("ReduceSum", [f"step{products}"], ["much"], keepdims=0),
            # It depends on the request, so no optimizer can leave it out.
            helper.make_node("Mul", ["much", "nothing"], ["little"]),
            helper.make_node("Add", ["product", "little"], ["y"]),
        ]
    )
    return model


def fails_above(limit: int, factor: float, *, columns: int = 2) -> onnx.ModelProto:
    """``times``; a request with a number of ``limit`` or more fails: it looks that up in a table, which ends there."""
    model = times(factor, columns=columns)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros(limit, np.float32), "table"))
    graph.node[0].output[0] = "product"
    graph.node.extend(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["found"]),
            helper.make_node("Add", ["product", "found"], ["y"]),
        ]
    )
    return model
