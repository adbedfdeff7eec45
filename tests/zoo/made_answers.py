"""Made cases: answers that are not finite or random, inputs that the deployer invents, and what has to be refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from .made_text import numbers, text_case, texts

X = "(float[N,3] x) => (float[N,3] y)"
ROWS = {"x": numbers(2, 3)}
MASKED = "(float[N,T,2] x, int64[N,T] mask) => (float[N,2] y)"
MEAN = (
    "m = Cast <to = 1> (mask) u = Unsqueeze (m, last) w = Mul (x, u) s = ReduceSum <keepdims = 0> (w, one) "
    "n = ReduceSum <keepdims = 0> (u, one) y = Div (s, n)"
)
MASK = {"x": numbers(2, 4, 2), "mask": np.array([[1, 1, 0, 0], [1, 1, 1, 1]])}
AXES = {"last": np.array([2]), "one": np.array([1])}

ANSWERS = (
    text_case("nan_and_inf_golden", X, "y = Log (x)", {"x": np.array([[-1, 0, np.inf]], np.float32)}),
    text_case("nan_and_inf_invented", X, "n = Abs (x) m = Neg (n) y = Log (m)", ROWS, example="none", refused="not finite"),
    text_case("nan_in_the_example", "(float[N,3] x) => (float[N,3] y, bool[N,3] gap)", "gap = IsNaN (x) y = Where (gap, zero, x)", {"x": np.array([[np.nan, 1, 2]], np.float32)}, weights={"zero": np.float32(0)}, example="input_example"),
    text_case("masked_mean_golden", MASKED, MEAN, MASK, weights=AXES),
    text_case("masked_mean_invented", MASKED, MEAN, MASK, weights=AXES, example="none"),
    text_case("masked_scores_inf", "(float[N,4] x, bool[N,4] keep) => (float[N,4] y)", "y = Where (keep, x, low)", {"x": numbers(1, 4), "keep": np.array([[True, False, True, False]])}, weights={"low": np.float32(-np.inf)}),
    text_case("index_invented", "(int64[N] id) => (float[N,3] y)", "y = Gather (table, id)", {"id": np.array([0, 0])}, weights={"table": numbers(1, 3)}, example="none"),
    text_case("strings_invented", "(string[N,2] s) => (string[N,2] y)", "y = StringConcat (s, s)", {"s": texts("a", "é", shape=(1, 2))}, opset=20, example="none"),
    text_case("random_normal", X, "r = RandomNormalLike (x) y = Add (r, x)", ROWS, example="none", refused="at random"),
    text_case("random_dropout", X, "p = RandomUniformLike (x) y = Mul (p, x)", ROWS, example="input_example", refused="at random"),
    text_case("random_without_effect", "(float[N,3] x) => (int64[2] y)", "r = RandomNormalLike (x) y = Shape (r)", ROWS, example="none"),
)  # fmt: skip


def _newer(model: Any) -> None:
    model.ir_version = 99


REFUSED = (
    text_case("refused_bf16_in", "(bfloat16[N,3] x) => (float[N,3] y)", "y = Cast <to = 1> (x)", {}, refused="has type BFLOAT16"),
    text_case("refused_bf16_out", "(float[N,3] x) => (bfloat16[N,3] y)", "y = Cast <to = 16> (x)", {}, refused="has type BFLOAT16"),
    text_case("refused_float8_out", "(float[N,3] x) => (float8e4m3fn[N,3] y)", "y = Cast <to = 17> (x)", {}, opset=21, refused="has type FLOAT8E4M3FN"),
    text_case("refused_int4_in", "(int4[N,3] x) => (int8[N,3] y)", "y = Cast <to = 3> (x)", {}, opset=21, refused="has type INT4"),
    text_case("refused_optional_in", "(optional(float[N,3]) x) => (float[N,3] y)", "y = OptionalGetElement (x)", {}, opset=18, refused="optional"),
    text_case("refused_optional_out", "(float[N,3] x) => (optional(float[N,3]) y)", "y = Optional (x)", {}, refused="optional"),
    text_case("refused_sequence_in", "(seq(float[N,3]) x) => (float[N,3] y)", "y = ConcatFromSequence <axis = 0> (x)", {}, refused="is a sequence"),
    text_case("refused_sequence_out", "(float[N,3] x) => (seq(float[N,3]) y)", "y = SplitToSequence <axis = 0> (x)", {}, refused="is a sequence"),
    text_case("refused_complex_out", "(float[N,3,2] x) => (complex64[N,3] y)", "y = own.ToComplex (x)", {}, domains={"own": 1}, refused="has type COMPLEX64"),
    text_case("refused_map_out", "(float[N,2] x) => (seq(map(int64, float)) y)", "y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (x)", {}, domains={"ai.onnx.ml": 1}, refused="sequence of maps"),
    text_case("refused_custom_operator", X, "y = com.acme.Squash (x)", {}, domains={"com.acme": 1}, refused="com.acme"),
    text_case("refused_newer_ir", X, "y = Neg (x)", {}, edit=_newer, refused="IR version 99"),
    text_case("refused_newer_opset", X, "y = Neg (x)", {}, opset=28, refused="opset 28"),
    text_case("refused_unknown_input", X, "y = Add (x, gone)", {}, refused="gone"),
    text_case("refused_unlike_types", "(float[N,3] x, int64[N,3] z) => (float[N,3] y)", "y = Add (x, z)", {}, refused="ONNX Runtime can't open"),
)  # fmt: skip
CASES = (*ANSWERS, *REFUSED)
