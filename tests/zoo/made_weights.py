"""Made cases: weights of few bits, sparse ones, and external data in files of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case
from .made_text import numbers, save, text_case, text_model, texts

X = "(float[N,96] x) => (float[N,128] y)"
ROWS = {"x": numbers(2, 96)}
WEIGHTS = numbers(96, 128, seed=1)
"""Large enough that the deployer leaves their bytes on disk when it looks at the model."""


def _quantized(kind: str) -> Callable[[Any], None]:
    """Return what adds weights ``q`` of a type that numpy lacks."""

    def edit(model: Any) -> None:
        from onnx import TensorProto, helper

        values = np.round(np.clip(WEIGHTS * 3, -6, 6))
        values = np.abs(values) if kind.startswith("U") else values
        model.graph.initializer.append(
            helper.make_tensor("q", TensorProto.DataType.Value(kind), values.shape, values.ravel())
        )

    return edit


def _unpacked(model: Any) -> None:
    """Keep weights as numbers of the message, not as bytes."""
    from onnx import TensorProto, helper

    model.graph.initializer.append(
        helper.make_tensor("w", TensorProto.FLOAT, WEIGHTS.shape, WEIGHTS.ravel().tolist())
    )


def _sparse(model: Any) -> None:
    from onnx import helper, numpy_helper

    at = np.arange(0, WEIGHTS.size, 100)
    values = numpy_helper.from_array(WEIGHTS.ravel()[at], "w")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(at), WEIGHTS.shape)
    )


SCALED = "w = DequantizeLinear (q, scale) y = MatMul (x, w)"
STEP = {"scale": np.float32(0.25)}
QDQ = (
    "q = QuantizeLinear (x, step, zero) d = DequantizeLinear (q, step, zero) w = DequantizeLinear (wq, step, wzero) m = MatMul (d, w) "
    "a = QuantizeLinear (m, wide, zero) y = DequantizeLinear (a, wide, zero)"
)
QDQ_WEIGHTS = {
    "wq": np.clip(WEIGHTS * 30, -128, 127).astype(np.int8),
    "step": np.float32(0.05),
    "wide": np.float32(0.5),
    "zero": np.uint8(128),
    "wzero": np.int8(0),
}
BLOCKS = "y = com.microsoft.MatMulNBits <K = 96, N = 128, bits = 4, block_size = 32> (x, packed, scales)"
PACKED = {
    "packed": np.random.default_rng(0).integers(0, 256, (128, 3, 16), dtype=np.uint8),
    "scales": np.abs(numbers(128 * 3)),
}
INSIDE = (
    text_case("weights_int4", X, SCALED, ROWS, opset=21, weights=STEP, edit=_quantized("INT4")),
    text_case("weights_uint4", X, SCALED, ROWS, opset=21, weights=STEP, edit=_quantized("UINT4")),
    text_case("weights_float8", X, SCALED, ROWS, opset=21, weights=STEP, edit=_quantized("FLOAT8E4M3FN")),
    text_case("weights_bfloat16", X, "w = Cast <to = 1> (q) y = MatMul (x, w)", ROWS, edit=_quantized("BFLOAT16")),
    text_case("weights_float16", X, "w = Cast <to = 1> (h) y = MatMul (x, w)", ROWS, weights={"h": WEIGHTS.astype(np.float16)}),
    text_case("weights_int8_qdq", X, QDQ, ROWS, weights=QDQ_WEIGHTS),
    text_case("weights_blocks_of_4_bits", X, BLOCKS, ROWS, domains={"com.microsoft": 1}, weights=PACKED),
    text_case("weights_not_raw", X, "y = MatMul (x, w)", ROWS, edit=_unpacked),
    text_case("weights_sparse", X, "y = MatMul (x, w)", ROWS, edit=_sparse),
    text_case("weights_strings", "(int64[N] id) => (string[N] y)", "y = Gather (words, id)", {"id": np.array([2, 0])}, weights={"words": texts("a", "é", "z")}),
    text_case("weights_float64", X, "w = Cast <to = 1> (d) y = MatMul (x, w)", ROWS, weights={"d": WEIGHTS.astype(np.float64)}),
)  # fmt: skip


def external_case(name: str, places: dict[str, str], *, length: bool = True, refused: str = "") -> Case:
    """Return the case of a model whose two weights are in other files.

    Args:
        name: of the case.
        places: the location of each weight, as the model has it.
        length: whether the model says how long the data is.
        refused: part of the expected refusal; then the files are not written.
    """

    def write(folder: Path) -> None:
        tensors = {"w": WEIGHTS, "b": numbers(128, seed=2)}
        model = text_model(X, "h = MatMul (x, w) y = Add (h, b)", weights=tensors)
        for tensor in model.graph.initializer:
            data = tensors[tensor.name].tobytes()
            file = folder / places[tensor.name]
            offset = file.stat().st_size if file.exists() else 0
            if not refused:
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("ab") as out:
                    out.write(data)
            _point(tensor, places[tensor.name], offset, len(data) if length else None)
        save(model, folder)

    return Case(name, "made", write, ROWS, refused=refused)


def _point(tensor: Any, location: str, offset: int, length: int | None) -> None:
    """Let a tensor say where its data is."""
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset)} if offset else {"location": location}
    entries |= {"length": str(length)} if length is not None else {}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


HUGE_ROWS, HUGE_WIDTH, BLOCK_ROWS = 550_000, 1024, 1_000


def _write_huge(folder: Path) -> None:
    """Write a table of 2.25 GB, more than one ONNX file can hold, a thousand rows at a time."""
    model = text_model(
        f"(int64[N] id, float[N,{HUGE_WIDTH}] x) => (float[N] y)",
        "row = Gather (table, id) p = Mul (row, x) y = ReduceSum <keepdims = 0> (p, one)",
        weights={"one": np.array([1]), "table": np.zeros((1, 1), np.float32)},
    )
    table = model.graph.initializer[1]
    table.dims[:] = [HUGE_ROWS, HUGE_WIDTH]
    _point(table, "weights/layer 0/table.bin", 0, HUGE_ROWS * HUGE_WIDTH * 4)
    save(model, folder)
    (folder / "weights/layer 0").mkdir(parents=True)
    block = numbers(BLOCK_ROWS, HUGE_WIDTH)
    with (folder / "weights/layer 0/table.bin").open("wb") as out:
        for number in range(HUGE_ROWS // BLOCK_ROWS):
            block[0, 0] = number
            out.write(block.data)


HUGE = {"id": np.array([0, 274_000, HUGE_ROWS - BLOCK_ROWS]), "x": np.ones((3, HUGE_WIDTH), np.float32)}
ONE = "model.onnx.data"
EXTERNAL = (
    external_case("external_one_file", {"w": ONE, "b": ONE}),
    external_case("external_spaces", {"w": "my weights/layer 0.bin", "b": "my weights/layer 1.bin"}),
    external_case("external_umlauts", {"w": "Gewichte für Größe/ä.bin", "b": "重み.bin"}),
    external_case("external_deep", {"w": "a/b/c/d/w", "b": "a/b.bin"}),
    external_case("external_dot_slash", {"w": "./w.bin", "b": "./b.bin"}),
    external_case("external_without_length", {"w": "w.bin", "b": "b.bin"}, length=False),
    external_case("external_missing", {"w": "w.bin", "b": "b.bin"}, refused="not among the logged files"),
    Case("external_2200_mb", "made", _write_huge, HUGE),
)
CASES = (*INSIDE, *EXTERNAL)
