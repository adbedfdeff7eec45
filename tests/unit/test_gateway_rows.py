"""From the body of /predict to tensors: every form, every datatype, and the field that is at fault."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.gateway.http.errors import Unprocessable
from ml_code.gateway.predict.rows import to_tensors
from ml_code.triton_deploy.rules.schema import Schema, Tensor

ONE = Schema((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1, 2)),))
TWO = Schema(
    (
        Tensor("age", "INT32", (-1,)),
        Tensor("name", "BYTES", (-1, 1)),
        Tensor("note", "FP64", (-1, 2), optional=True),
    ),
    (),
)
FIXED = Schema((Tensor("image", "UINT8", (2, 3)),), ())


def fields(body: object, schema: Schema, *, allow_nan: bool = False) -> list[str]:
    """The fields that are named as wrong."""
    with pytest.raises(Unprocessable) as caught:
        to_tensors(body, schema, allow_nan=allow_nan)
    assert all(problem.problem for problem in caught.value.problems)
    assert caught.value.problems[0].field in caught.value.message
    return [problem.field for problem in caught.value.problems]


@pytest.mark.parametrize(
    "body",
    [
        {"rows": [[1, 2], [3, 4]]},
        [[1, 2], [3, 4]],
        {"records": [{"x": [1, 2]}, {"x": [3, 4]}]},
        [{"x": [1, 2]}, {"x": [3, 4]}],
        {"columns": {"x": [[1, 2], [3, 4]]}},
    ],
)
def test_every_form_says_the_same(body: object) -> None:
    array = to_tensors(body, ONE)["x"]
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "body",
    [
        {"rows": [[7, "ann"], [8, "bob"]]},
        {"records": [{"age": 7, "name": "ann"}, {"name": "bob", "age": 8}]},
        {"columns": {"name": ["ann", "bob"], "age": [7, 8]}},
        {"columns": {"name": [["ann"], ["bob"]], "age": [7, 8]}},
    ],
)
def test_several_inputs_and_a_number_for_a_row_of_one(body: object) -> None:
    arrays = to_tensors(body, TWO)
    assert arrays["age"].dtype == np.int32
    assert arrays["age"].tolist() == [7, 8]
    assert arrays["name"].tolist() == [[b"ann"], [b"bob"]]
    assert "note" not in arrays


def test_an_optional_input_is_taken() -> None:
    arrays = to_tensors({"records": [{"age": 1, "name": "a", "note": [0.5, 1]}]}, TWO)
    assert arrays["note"].tolist() == [[0.5, 1.0]]


def test_every_float64_is_taken_and_no_whole_number_beyond() -> None:
    doubles = Schema((Tensor("x", "FP64", (-1, 2)),), ())
    largest = sys.float_info.max
    assert to_tensors({"rows": [[largest, -largest]]}, doubles)["x"].tolist() == [[largest, -largest]]
    rounded = int(largest) + 2**969  # Just below the middle between the largest float64 and 2**1024.
    assert to_tensors({"rows": [[rounded, 1 - rounded]]}, doubles)["x"].tolist() == [[largest, -largest]]
    assert fields({"rows": [[0, 2**1024 - 2**970]]}, doubles) == ["rows[0][1]"]


def test_inputs_without_rows_come_as_columns() -> None:
    assert to_tensors({"columns": {"image": [[1, 2, 3], [4, 5, 6]]}}, FIXED)["image"].shape == (2, 3)
    assert fields({"rows": [[1, 2, 3]]}, FIXED) == ["rows"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rows": [[1, 2], [3, "a"]]}, "rows[1][1]"),
        ({"rows": [[1, 2], [3]]}, "rows[1]"),
        ({"rows": [[1, 2], 3]}, "rows[1]"),
        ({"rows": [[1, True]]}, "rows[0][1]"),
        ({"rows": [[1, None]]}, "rows[0][1]"),
        ({"rows": [[1, [2]]]}, "rows[0][1]"),
        ({"rows": [[1, 1e39]]}, "rows[0][1]"),
        ({"rows": [[1, 10**400]]}, "rows[0][1]"),
        ({"rows": []}, "rows"),
        ({"rows": {"a": 1}}, "rows"),
        ({"records": [{"x": [1, 2]}, {"x": [1, "a"]}]}, "records[1].x[1]"),
        ({"records": [{"x": [1, 2]}, {"z": [1, 2]}]}, "records[1].x"),
        ({"records": [{"x": [1, 2]}, 5]}, "records[1]"),
        ({"columns": {"x": [[1, 2], [3, {}]]}}, "columns.x[1][1]"),
        ({"columns": {"z": []}}, "columns.x"),
        ({"columns": {"x": []}}, "columns"),
        ({}, ""),
        ({"rows": [], "columns": {}}, ""),
        (5, ""),
        (None, ""),
    ],
)
def test_the_field_at_fault_is_named(body: object, field: str) -> None:
    assert fields(body, ONE)[0] == field


def test_all_problems_come_together_up_to_a_limit() -> None:
    assert fields({"records": [{"x": [1, 2], "z": 1}] * 3}, ONE) == [f"records[{i}].z" for i in range(3)]
    assert len(fields({"records": [{}] * 1000}, ONE)) == 20


@pytest.mark.parametrize(
    ("value", "fits"), [(2**31 - 1, True), (2**31, False), (-(2**31), True), (2**63, False), (1.0, False)]
)
def test_whole_numbers_must_fit_their_type(value: object, fits: bool) -> None:
    body = {"rows": [[value, "a"]]}
    if fits:
        assert to_tensors(body, TWO)["age"].tolist() == [value]
    else:
        assert fields(body, TWO) == ["rows[0][0]"]


def test_inputs_of_different_lengths_are_refused() -> None:
    assert fields({"columns": {"age": [1, 2], "name": ["a"]}}, TWO) == ["columns"]


def test_null_is_nan_only_where_that_is_allowed() -> None:
    assert math.isnan(to_tensors({"rows": [[1, None]]}, ONE, allow_nan=True)["x"][0, 1])
    assert fields({"rows": [[None, "a"]]}, TWO, allow_nan=True) == ["rows[0][0]"]


def test_texts_keep_their_bytes() -> None:
    assert to_tensors({"rows": [[1, "Grüße\0 "]]}, TWO)["name"][0, 0] == "Grüße\0 ".encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "age", "name", "rows", "records", "columns"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([ONE, TWO, FIXED]), st.booleans())
def test_whatever_comes_is_converted_or_refused(body: object, schema: Schema, allow_nan: bool) -> None:
    body = json.loads(json.dumps(body))
    try:
        arrays = to_tensors(body, schema, allow_nan=allow_nan)
    except Unprocessable:
        return
    for tensor in schema.inputs:
        if tensor.name in arrays:
            shape = arrays[tensor.name].shape
            assert all(want in (-1, got) for want, got in zip(tensor.shape, shape, strict=True))
