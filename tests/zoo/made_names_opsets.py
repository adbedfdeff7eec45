"""Made cases: odd names, and an operator of each opset."""

from __future__ import annotations

import numpy as np

from .made_text import as_inputs, numbers, renamed, text_case, texts

X, W, B = "(float[N,3] x) => (float[N,3] y)", numbers(3, 3, seed=1), numbers(3, seed=2)
ROWS, IMAGE = numbers(2, 3), numbers(1, 4, 4, 4)
IMAGES = "(float[N,4,H,W] x) => (float[N,4,H,W] y)"

ODD_NAMES = {
    "slash_and_colon": ("model/x:0", "model/dense/BiasAdd:0"),
    "spaces": (" a b ", "the answer "),
    "quotes": ('"x"', "it's \\ `y`"),
    "braces": ("{x}[0]<y>", "&%$#@!;|*?~"),
    "line_breaks": ("x\ny", "tab\there"),
    "not_ascii": ("größe", "答え🙂"),
    "dots": ("..", "./../y."),
    "long": ("x" * 300, "y" * 300),
    "digits": ("0", "-1"),
    "same_but_for_case": ("X", "x"),
    "words_of_json": ("null", "outputs"),
}
"""Names of an input and an output, by case."""

NAMES = tuple(
    text_case(f"names_{name}", X, "y = Relu(x)", {x: ROWS}, edit=renamed({"x": x, "y": y}))
    for name, (x, y) in ODD_NAMES.items()
)

OLDER_OPSETS = (
    text_case(
        "opset_7",
        X,
        "h = Gemm (x, w, b) y = Add (h, b)",
        {"x": ROWS},
        opset=7,
        ir=3,
        weights={"w": W, "b": B},
        edit=as_inputs,
    ),
    text_case(
        "opset_8",
        "(float[N,3] x) => (float[2,N,3] y)",
        "y = Expand (x, size)",
        {"x": ROWS},
        opset=8,
        ir=4,
        weights={"size": np.array([2, 1, 1])},
    ),
    text_case(
        "opset_9",
        X,
        "p = Greater (x, b) y = Where (p, x, b)",
        {"x": ROWS},
        opset=9,
        weights={"b": B},
    ),
    text_case(
        "opset_10",
        "(float[N,9] x) => (float[N,2] v, int64[N,2] i)",
        "v, i = TopK <axis = -1> (x, k)",
        {"x": numbers(2, 9)},
        opset=10,
        weights={"k": np.array([2])},
    ),
    text_case(
        "opset_11",
        X,
        "c = Clip (x, low) y = CumSum (c, axis)",
        {"x": ROWS},
        opset=11,
        weights={"low": np.float32(-0.5), "axis": np.array(1)},
    ),
    text_case(
        "opset_12",
        X,
        'y = Einsum <equation = "ij,kj->ik"> (x, w)',
        {"x": ROWS},
        opset=12,
        weights={"w": W},
    ),
    text_case(
        "opset_13",
        "(float[N,3] x) => (float[N,1] y)",
        "u = Unsqueeze (x, one) s = Softmax <axis = 1> (u) m = Mul (s, u) y = ReduceSum <keepdims = 0> (m, two)",
        {"x": ROWS},
        opset=13,
        weights={"one": np.array([1]), "two": np.array([2])},
    ),
    text_case(
        "opset_14",
        "(float[N,3,3] x) => (float[N,3,3] y)",
        "t = Trilu (x) y = HardSwish (t)",
        {"x": numbers(2, 3, 3)},
        opset=14,
    ),
    text_case(
        "opset_15",
        X,
        "y = BatchNormalization <epsilon = 0.001> (x, scale, b, mean, variance)",
        {"x": ROWS},
        opset=15,
        weights={"scale": W[0], "b": B, "mean": W[1], "variance": np.abs(W[2])},
    ),
    text_case(
        "opset_16",
        "(float[N,4,4,4] x, float[N,2,2,2] grid) => (float[N,4,2,2] y)",
        "y = GridSample (x, grid)",
        {"x": IMAGE, "grid": np.clip(numbers(1, 2, 2, 2), -1, 1)},
        opset=16,
    ),
)

NEWER_OPSETS = (
    text_case(
        "opset_17",
        X,
        "y = LayerNormalization <axis = -1> (x, g, b)",
        {"x": ROWS},
        opset=17,
        weights={"g": W[0], "b": B},
    ),
    text_case(
        "opset_18",
        "(float[N,3] x) => (float[N,1] y)",
        "m = Mish (x) y = ReduceMean (m, axes)",
        {"x": ROWS},
        opset=18,
        weights={"axes": np.array([-1])},
    ),
    text_case(
        "opset_19",
        "(string[N] a, string[N] b) => (bool[N] y)",
        "y = Equal (a, b)",
        {"a": texts("é", "b"), "b": texts("é", "B")},
        opset=19,
    ),
    text_case(
        "opset_20",
        "(string[N] a, string[N] b) => (string[N] y, bool[N] hit)",
        'y = StringConcat (a, b) hit = RegexFullMatch <pattern = "f.*y"> (y)',
        {"a": texts("fish", ""), "b": texts("y", "cake")},
        opset=20,
    ),
    text_case(
        "opset_21",
        IMAGES,
        "y = GroupNormalization <num_groups = 2> (x, g, b)",
        {"x": IMAGE},
        opset=21,
        weights={"g": np.abs(numbers(4)), "b": numbers(4, seed=1)},
    ),
    text_case(
        "opset_22",
        IMAGES,
        "c = Conv <pads = [1,1,1,1]> (x, w) y = Softplus (c)",
        {"x": IMAGE},
        opset=22,
        weights={"w": numbers(4, 4, 3, 3)},
    ),
    text_case(
        "opset_23",
        "(float[N,2,L,8] q, float[N,2,S,8] k, float[N,2,S,8] v) => (float[N,2,L,8] y)",
        "y = Attention <is_causal = 1> (q, k, v)",
        {name: numbers(1, 2, 3, 8, seed=seed) for seed, name in enumerate("qkv")},
        opset=23,
    ),
    text_case(
        "opset_24", X, "s = Swish (x) y = RMSNormalization (s, g)", {"x": ROWS}, opset=24, weights={"g": B}
    ),
    text_case(
        "opset_25",
        "(float[N,2,3] x) => (float[N,6] y)",
        "y = Flatten <axis = 1> (x)",
        {"x": numbers(4, 2, 3)},
        opset=25,
    ),
    text_case(
        "opset_26",
        "(float[N,3] x) => (float[N,3] p, int32[N,3] b)",
        "p = CumProd (x, axis) b = BitCast <to = 6> (x)",
        {"x": ROWS},
        opset=26,
        weights={"axis": np.array(1)},
    ),
)
CASES = (*NAMES, *OLDER_OPSETS, *NEWER_OPSETS)
