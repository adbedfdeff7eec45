"""Made cases: shapes that the file leaves open, says wrongly, or that ONNX Runtime knows better."""

from __future__ import annotations

import numpy as np

from .made_text import numbers, text_case

X = {"x": numbers(2, 3)}


def _undescribed(model: object) -> None:
    """Take the shape of the first output away."""
    model.graph.output[0].type.tensor_type.ClearField("shape")  # type: ignore[attr-defined]


def _untyped(model: object) -> None:
    """Take the type of the first output away, as tools that cut graphs do."""
    model.graph.output[0].ClearField("type")  # type: ignore[attr-defined]


CASES = (
    text_case("shape_fixed", "(float[4,3] x) => (float[4,3] y)", "y = Neg (x)", {"x": numbers(4, 3)}),
    text_case("shape_no_batch", "(float[3] x) => (float[3] y)", "y = Neg (x)", {"x": numbers(3)}),
    text_case("shape_zero_rows", "(float[N,3] x) => (float[N,3] y)", "y = Neg (x)", {"x": numbers(0, 3)}),
    text_case(
        "shape_empty_answer",
        "(float[N,3] x) => (float[K] y, int64[2,K] at)",
        "zero = Constant <value_float = 9.0> () p = Greater (x, zero) y = Compress (x, p1) at = NonZero (p) "
        "flat = Constant <value_ints = [-1]> () p1 = Reshape (p, flat)",
        X,
    ),
    text_case("shape_zero_declared", "(float[0,3] x) => (float[0,3] y)", "y = Neg (x)", {"x": numbers(0, 3)}, refused="dimension must be integer >= 1"),
    text_case("shape_no_inputs", "() => (float[3] y)", "y = Constant <value_floats = [1.0, 2.0, 3.0]> ()", {}, refused="has no inputs"),
    text_case("shape_unknown_rank_out", "(float[N,M] x, int64[R] to) => (float[] y)", "y = Reshape (x, to)", X | {"to": np.array([3, 1, 2])}),
    text_case("shape_unknown_rank_in", "(float[] x) => (float[] y)", "y = Neg (x)", X, refused="has no shape"),
    text_case("shape_not_described", "(float[N,3] x) => (float[N,3] y)", "y = Neg (x)", X, edit=_undescribed),
    text_case("shape_and_type_missing", "(float[N,3] x) => (float[N,3] y)", "y = Neg (x)", X, edit=_untyped),
    text_case("shape_better_inferred", "(float[N,3] x) => (float[N,M] y)", "y = Relu (x)", X),
    text_case("shape_better_inferred_batched", "(float[N,3] x) => (float[N,M] y)", "y = Relu (x)", X, config={"max_batch_size": 4}),
    text_case("shape_merged_open", "(float[N,M] x) => (float[N,3] y)", "y = Relu (x)", X),
    text_case("shape_input_fixed_output_open", "(float[1,3] x) => (float[N,3] y)", "y = Relu (x)", {"x": numbers(1, 3)}),
    text_case(
        "shape_folded_reshape",
        "(float[N,3] x) => (float[A,B,C] y)",
        "a = Constant <value_ints = [-1, 1]> () b = Constant <value_ints = [3]> () to = Concat <axis = 0> (a, b) y = Reshape (x, to)",
        X,
    ),
    text_case(
        "shape_folded_shape_of",
        "(float[2,6] x) => (float[A,B] y)",
        "s = Shape (x) r = Neg (s) n = Neg (r) two = Constant <value_ints = [2, 1]> () h = Mul (n, two) q = Constant <value_ints = [1, 2]> () "
        "to = Div (h, q) y = Reshape (x, to)",
        {"x": numbers(2, 6)},
    ),
    text_case("shape_shared_sizes", "(float[N,M] x, float[M,K] w) => (float[N,K] y)", "y = MatMul (x, w)", X | {"w": numbers(3, 4)}),
    text_case("shape_joined_rows", "(float[A,3] x, float[B,3] w) => (float[C,3] y)", "y = Concat <axis = 0> (x, w)", X | {"w": numbers(4, 3)}),
    text_case("shape_without_batch_rows_apart", "(float[N,3] x, float[3] m) => (float[N,3] y)", "y = Sub (x, m)", X | {"m": numbers(3)}, example="input_example"),
)  # fmt: skip
