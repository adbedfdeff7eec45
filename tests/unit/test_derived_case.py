"""Smoke cases that are made for a model: which inputs are invented, and what is told of an answer that can't be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.model.derived_case import derive_case
from ml_code.triton_deploy.model.onnx_model import inspect
from ml_code.triton_deploy.model.smoke_case import SmokeCase, at_random
from tests.support.signing import declared

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'


def derived(folder: Path, text: str, example: Any = None) -> SmokeCase:
    """The case of a model that is written in ONNX's own syntax."""
    file = folder / "model.onnx"
    file.write_bytes(parse_model(f"{HEAD} {text}").SerializeToString())
    schema = inspect(file, max_opset=99, max_ir_version=99, sign=declared)
    return derive_case(file, schema, None if example is None else json.dumps(example))


MEAN = """mean (float[N, 3] x, int64[N, 3] mask) => (float[N] y) {
    m = Cast <to = 1> (mask)
    axes = Constant <value_ints = [1]> ()
    kept = Mul (x, m)
    sum = ReduceSum <keepdims = 0> (kept, axes)
    count = ReduceSum <keepdims = 0> (m, axes)
    y = Div (sum, count)
}"""
LOOK_UP = """table (int64[N] x) => (float[N] y) {
    table = Constant <value_floats = [7.0]> ()
    y = Gather (table, x)
}"""
LOG_OF_NEGATIVE = """log (float[N] x) => (float[N] y) {
    n = Abs (x)
    m = Neg (n)
    y = Log (m)
}"""
ONE_OVER = """one (int64[N] x) => (float[N] y) {
    one = Constant <value_float = 1.0> ()
    f = Cast <to = 1> (x)
    less = Sub (f, one)
    y = Div (one, less)
}"""
RANDOM = "noise (float[N, 3] x) => (float[N, 3] y) { y = RandomNormalLike (x) }"
SCALAR = "scaled (float[N] x, int64 rate) => (float[N] y) { r = Cast <to = 1> (rate) y = Mul (x, r) }"


def test_a_mask_is_ones_so_that_a_mean_is_a_number(tmp_path: Path) -> None:
    case = derived(tmp_path, MEAN)
    assert case.inputs["mask"].tolist() == [[1, 1, 1]]
    assert np.isfinite(case.outputs["y"]).all()


@pytest.mark.parametrize(
    ("text", "answer"), [(LOOK_UP, 7.0), (ONE_OVER, -1.0)], ids=["refused", "not finite"]
)
def test_whole_numbers_are_zeros_where_ones_get_no_number(tmp_path: Path, text: str, answer: float) -> None:
    case = derived(tmp_path, text)
    assert case.inputs["x"].tolist() == [0]
    assert case.outputs["y"].tolist() == [answer]


def test_a_boolean_is_true_first(tmp_path: Path) -> None:
    case = derived(tmp_path, "same (bool[N] x) => (bool[N] y) { y = Identity (x) }")
    assert case.inputs["x"].tolist() == [True]


@pytest.mark.parametrize("example", [None, {"inputs": [2.0]}])
def test_an_answer_that_is_not_finite_is_refused_with_what_to_do(tmp_path: Path, example: Any) -> None:
    with pytest.raises(ArtifactRejected, match=r"own answer to .* is not finite \(output y\)") as refused:
        derived(tmp_path, LOG_OF_NEGATIVE, example)
    assert "triton/golden.json may expect it" in refused.value.hint


@pytest.mark.parametrize("example", [None, {"inputs": [[1.0, 2.0, 3.0]]}])
def test_a_random_model_is_told_to_be_one(tmp_path: Path, example: Any) -> None:
    with pytest.raises(
        ArtifactRejected, match="answers at random: two answers to the same inputs"
    ) as refused:
        derived(tmp_path, RANDOM, example)
    assert "RandomNormal" in refused.value.hint


@pytest.mark.parametrize("rate", [8000, [8000]])
def test_an_example_has_a_scalar_as_a_list_of_one(tmp_path: Path, rate: Any) -> None:
    case = derived(tmp_path, SCALAR, {"inputs": {"x": [2.0], "rate": rate}})
    assert case.source == "input_example"
    assert case.inputs["rate"].shape == ()
    assert case.outputs["y"].tolist() == [16000.0]


def arrays(*values: float) -> dict[str, Any]:
    return {"y": np.array(values, np.float32)}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (arrays(1.0, np.nan), arrays(1.0, np.nan), ""),
        (arrays(1.0), arrays(1.0001), ""),
        (arrays(1.0), arrays(1.5), "differ by up to 0.5 in output y"),
        (arrays(1.0), arrays(np.nan), "differ by up to nan in output y"),
        (arrays(1.0), arrays(1.0, 2.0), "in other shapes"),
        (arrays(1.0), {}, "in other shapes"),
        ({"y": np.array(["a"], np.object_)}, {"y": np.array([b"a"], np.object_)}, ""),
        ({"y": np.array(["a"], np.object_)}, {"y": np.array(["b"], np.object_)}, "other strings in output y"),
    ],
)
def test_two_answers_are_random_when_no_rounding_explains_them(
    first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    assert at_random(first, second).endswith(said)
    assert bool(at_random(first, second)) == bool(said)
