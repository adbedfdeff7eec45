"""Made cases: subgraphs, functions, initializers, and graphs that ONNX's checker or a person would not write so."""

from __future__ import annotations

from typing import Any

import numpy as np

from .made_text import as_inputs, numbers, text_case, texts

X = "(float[N,3] x) => (float[N,3] y)"
ROWS = {"x": numbers(2, 3)}
W, B = numbers(3, 3, seed=1), numbers(3, seed=2)

SUBGRAPHS = (
    text_case(
        "if_two_shapes",
        "(float[N,3] x, bool[1] flip) => (float[A,B] y)",
        "y = If (flip) <then_branch = a () => (float[3,N] t) { t = Transpose (x) }, else_branch = b () => (float[N,3] e) { e = Neg (x) }>",
        ROWS | {"flip": np.array([True])},
    ),
    text_case(
        "loop_powers",
        "(float[3] x, int64 times) => (float[3] y, float[K,3] all)",
        "go = Constant <value = bool {1}> () "
        "y, all = Loop (times, go, x) <body = step (int64 i, bool c, float[3] a) => (bool d, float[3] b, float[3] s) "
        "{ d = Identity (c) b = Mul (a, x) s = Identity (b) }>",
        {"x": numbers(3), "times": np.int64(3)},
    ),
    text_case(
        "scan_running_sum",
        "(float[3] from, float[T,3] steps) => (float[3] last, float[T,3] sums)",
        "last, sums = Scan (from, steps) <num_scan_inputs = 1, body = step (float[3] a, float[3] x) => (float[3] b, float[3] s) "
        "{ b = Add (a, x) s = Identity (b) }>",
        {"from": numbers(3), "steps": numbers(4, 3)},
    ),
    text_case(
        "loop_in_if",
        "(float[N] x, bool p, int64 times) => (float[N] y)",
        "y = If (p) <then_branch = a () => (float[N] t) { go = Constant <value = bool {1}> () "
        "t = Loop (times, go, x) <body = step (int64 i, bool c, float[N] v) => (bool d, float[N] w) { d = Identity (c) w = Add (v, x) }> }, "
        "else_branch = b () => (float[N] e) { e = Identity (x) }>",
        {"x": numbers(3), "p": np.bool_(True), "times": np.int64(2)},
    ),
    text_case(
        "sequence_inside",
        "(float[N,4] x) => (float[M,2] y)",
        "s = SplitToSequence <axis = 1> (x, two) y = ConcatFromSequence <axis = 0> (s)",
        {"x": numbers(3, 4)},
        weights={"two": np.array(2)},
    ),
    text_case(
        "optional_inside",
        "(float[N,3] x) => (float[N,3] y, bool there)",
        "o = Optional (x) there = OptionalHasElement (o) y = OptionalGetElement (o)",
        ROWS,
        opset=18,
    ),
    text_case(
        "weights_in_a_subgraph",
        "(float[N,3] x, bool p) => (float[N,3] y)",
        "y = If (p) <then_branch = a () => (float[N,3] t) <float[3] w = {1.0, 2.0, 3.0}> { t = Mul (x, w) }, "
        "else_branch = b () => (float[N,3] e) { e = Identity (x) }>",
        ROWS | {"p": np.bool_(True)},
    ),
)

FUNCTIONS = (
    text_case(
        "function",
        X,
        "y = own.twice (x)",
        ROWS,
        domains={"own": 1},
        functions='<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }',
    ),
    text_case(
        "function_in_function",
        X,
        "y = own.scaled <by = 3.0> (x)",
        ROWS,
        domains={"own": 1},
        functions='<domain: "own", opset_import: ["" : 17, "own" : 1]> scaled <by> (a) => (b) '
        "{ f = Constant <value_float: float = @by> () c = own.twice (a) b = Mul (c, f) }\n"
        '<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }',
    ),
)


def _first_input_last(model: Any) -> None:
    """Let a node come before the one whose answer it takes."""
    model.graph.node.reverse()


def _without_imports(model: Any) -> None:
    del model.opset_import[1:]


def _without_names(model: Any) -> None:
    """Give the graph no name; the nodes of the text have none."""
    model.graph.name = ""


INITIALIZERS = (
    text_case("initializers_are_inputs_ir_3", X, "y = Gemm (x, w, b)", ROWS, opset=8, ir=3, weights={"w": W, "b": B}, edit=as_inputs),
    text_case("initializers_may_be_overridden", X, "h = MatMul (x, w) y = Add (h, b)", ROWS, weights={"w": W, "b": B}, edit=as_inputs),
    text_case("input_unused", "(float[N,3] x, int64[N] id) => (float[N,3] y)", "y = Neg (x)", ROWS | {"id": np.array([1, 2])}),
    text_case("output_is_an_initializer", "(float[N,3] x) => (float[N,3] y, float[3] b)", "y = Add (x, b)", ROWS, weights={"b": B}),
    text_case("output_is_an_input", "(float[N,3] x) => (float[N,3] y, float[N,3] x)", "y = Neg (x)", ROWS, refused="is an input of the model and an output"),
    text_case("output_is_an_input_by_identity", "(string[N] id, float[N] x) => (string[N] same, float[N] y)", "same = Identity (id) y = Neg (x)", {"id": texts("a", "b"), "x": numbers(2)}),
    text_case("output_inside_as_well", "(float[N,3] x) => (float[N,3] h, float[N,3] y)", "h = Neg (x) y = Exp (h)", ROWS),
)  # fmt: skip

MANY = (
    text_case(
        "hundred_inputs",
        "({}) => (float[N,2] y)".format(", ".join(f"float[N,2] x{n}" for n in range(100))),
        "y = Sum ({})".format(", ".join(f"x{n}" for n in range(100))),
        {f"x{n}": numbers(1, 2, seed=n) for n in range(100)},
    ),
    text_case(
        "two_hundred_outputs",
        "(float[N,2] x) => ({})".format(", ".join(f"float[N,2] y{n}" for n in range(200))),
        "y0 = Neg (x) " + " ".join(f"y{n} = Add (y{n - 1}, x)" for n in range(1, 200)),
        {"x": numbers(1, 2)},
    ),
    text_case(
        "thousand_nodes",
        X,
        "y0 = Neg (x) " + " ".join(f"y{n} = Sin (y{n - 1})" for n in range(1, 1000)) + " y = Neg (y999)",
        ROWS,
    ),
)

UNUSUAL = (
    text_case("nodes_unsorted", X, "h = Neg (x) y = Exp (h)", ROWS, edit=_first_input_last),
    text_case("nothing_has_a_name", X, "h = Neg (x) y = Exp (h)", ROWS, edit=_without_names),
    text_case("layer_normalization_opset_14", X, "y = LayerNormalization <axis = -1> (x, g, b)", ROWS, opset=14, weights={"g": W[0], "b": B}),
    text_case("simplified_layer_normalization", X, "y = SimplifiedLayerNormalization <axis = -1, epsilon = 0.00001> (x, g)", ROWS, opset=14, weights={"g": B}),
    text_case("microsoft_without_import", X, "y = com.microsoft.Gelu (x)", ROWS, domains={"com.microsoft": 1}, edit=_without_imports),
    text_case("microsoft_operators", X, "h = com.microsoft.FusedMatMul <alpha = 2.0, transB = 1> (x, w) y = com.microsoft.QuickGelu (h)", ROWS, domains={"com.microsoft": 1}, weights={"w": W}),
    text_case(
        "tree_by_hand",
        "(float[N,3] x) => (float[N,1] y)",
        "y = ai.onnx.ml.TreeEnsembleRegressor <n_targets = 1, nodes_falsenodeids = [2, 0, 0], nodes_featureids = [1, 0, 0], "
        'nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_nodeids = [0, 1, 2], nodes_treeids = [0, 0, 0], nodes_truenodeids = [1, 0, 0], '
        "nodes_values = [0.0, 0.0, 0.0], target_ids = [0, 0], target_nodeids = [1, 2], target_treeids = [0, 0], target_weights = [1.0, -1.0]> (x)",
        ROWS,
        domains={"ai.onnx.ml": 3},
    ),
)  # fmt: skip
CASES = (*SUBGRAPHS, *FUNCTIONS, *INITIALIZERS, *MANY, *UNUSUAL)
