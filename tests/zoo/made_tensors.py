"""Made cases: types, scalars, ranks and batching."""

from __future__ import annotations

import numpy as np

from .made_text import numbers, text_case, texts

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = {"float": np.float32, "double": np.float64, "float16": np.float16}
TYPES = {
    **{name: np.array([[np.iinfo(name).min, 1, np.iinfo(name).max]], dtype=name) for name in WHOLE},
    **{
        name: np.array([[np.finfo(kind).min, np.finfo(kind).tiny, 0.1], [-0.0, 1, np.finfo(kind).max]], kind)
        for name, kind in FLOATS.items()
    },
    "bool": np.array([[True, False, True]]),
    "string": texts("", 'größe "\\\n', "答え🙂" * 1000, shape=(1, 3)),
}
"""Values of each type, its extremes among them."""

SCALARS = (
    text_case("scalar_out", "(float[N,3] x) => (float y)", "y = ReduceSum <keepdims = 0> (x)", {"x": numbers(2, 3)}),
    text_case(
        "scalar_in",
        "(float[N,3] x, float by) => (float[N,3] y)",
        "y = Mul (x, by)",
        {"x": numbers(2, 3), "by": np.float32(2.5)},
    ),
    text_case(
        "scalar_int64",
        "(int64 rate) => (int64 y, float[K] z)",
        "y = Add (rate, rate) f = Cast <to = 1> (rate) one = Constant <value_ints = [1]> () z = Reshape (f, one)",
        {"rate": np.int64(16000)},
        opset=18,
    ),
    text_case(
        "scalar_string", "(string s) => (string y)", "y = StringConcat (s, s)", {"s": np.array("é", object)}, opset=20
    ),
    text_case(
        "scalar_half_invented", "(float16 x) => (float16 y)", "y = Exp (x)", {"x": np.float16(1.5)}, example="none"
    ),
    text_case(
        "scalar_bool_chooses",
        "(bool p, float[N] x) => (float[N] y)",
        "y = If (p) <then_branch = a () => (float[N] t) { t = Neg (x) }, else_branch = b () => (float[N] e) { e = Identity (x) }>",
        {"p": np.bool_(True), "x": numbers(3)},
    ),
)  # fmt: skip

RANKS = tuple(
    text_case(
        f"rank_{rank}",
        "(float[{0}] x) => (float[{0}] y)".format(",".join(f"D{place}" for place in range(rank))),
        "y = Add (x, x)",
        {"x": numbers(*range(2, 2 + min(rank, 3)), *[1] * (rank - 3))},
        example="golden" if rank % 2 else "input_example",
    )
    for rank in range(1, 9)
)

BATCH = {"max_batch_size": 8}
BATCHED = (
    text_case(
        "batch_rows",
        "(float[N,3] x) => (float[N,2] y)",
        "y = MatMul (x, w)",
        {"x": numbers(5, 3)},
        weights={"w": numbers(3, 2)},
        config=BATCH,
    ),
    text_case(
        "batch_scalar_a_row",
        "(float[N,3] x) => (float[N] y)",
        "y = ReduceSum <keepdims = 0> (x, one)",
        {"x": numbers(5, 3)},
        weights={"one": np.array([1])},
        config=BATCH,
    ),
    text_case(
        "batch_rank_1_strings",
        "(string[N] word) => (int64[N] id)",
        'id = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "é"], values_int64s = [1, 2], default_int64 = -1> (word)',
        {"word": texts("é", "a", "zebra")},
        domains={"ai.onnx.ml": 3},
        config=BATCH,
    ),
    text_case(
        "batch_dynamic",
        "(float[N] a, int32[N,M] b) => (float[N] y, int32[N,M] z)",
        "y = Exp (a) z = Neg (b)",
        {"a": numbers(2), "b": np.array([[1, 2, 3], [4, 5, 6]], np.int32)},
        config={"max_batch_size": 4, "dynamic_batching": {"max_queue_delay_microseconds": 100}},
        example="none",
    ),
    text_case(
        "batch_of_a_fixed_one",
        "(float[1,3] x) => (float[1,3] y)",
        "y = Neg (x)",
        {"x": numbers(1, 3)},
        config=BATCH,
        refused="max_batch_size",
    ),
)  # fmt: skip
CASES = (
    *(
        text_case(
            f"type_{name}",
            f"({name}[N,3] x) => ({name}[N,6] y, {name}[3,N] z)",
            "y = Concat <axis = 1> (x, x) z = Transpose (x)",
            {"x": values},
        )
        for name, values in TYPES.items()
    ),
    *SCALARS,
    *RANKS,
    *BATCHED,
)
