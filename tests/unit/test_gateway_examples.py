"""The request that the gateway's page shows for a model: its real inputs where there are some, and one that is taken."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ml_code.gateway.local.files import Fetched
from ml_code.gateway.local.models import example
from ml_code.gateway.predict.examples import example_of, invented
from ml_code.gateway.triton.deploy_example import read_example
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from tests.support.models import files, times
from tests.support.world import MODEL, World

ROWS = Schema((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1, 2)),))
TWO = Schema((Tensor("a", "INT64", (-1,)), Tensor("b", "BYTES", (-1, 1))), ())
WHOLE = Schema((Tensor("image", "UINT8", (2, 2)),), ())


def test_an_example_is_a_row_that_predict_takes() -> None:
    one = example_of({"x": np.array([[5.1, 3], [9, 9]], np.float32)}, ROWS, "golden")
    assert one is not None
    assert (one.body, one.source) == ({"rows": [[5.1, 3.0]]}, "golden")


def test_an_example_of_several_inputs_names_them() -> None:
    one = example_of({"a": np.array([2**53 + 1]), "b": np.array([[b"caf\xc3\xa9"]], object)}, TWO, "golden")
    assert one is not None
    assert one.body == {"records": [{"a": 2**53 + 1, "b": ["café"]}]}


def test_an_example_of_a_model_without_rows_is_whole() -> None:
    one = example_of({"image": np.arange(4, dtype=np.uint8).reshape(2, 2)}, WHOLE, "golden")
    assert one is not None
    assert one.body == {"columns": {"image": [[0, 1], [2, 3]]}}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_no_example(value: float) -> None:
    assert example_of({"x": np.array([[value, 1]], np.float32)}, ROWS, "golden") is None


def test_bytes_that_are_no_text_are_no_example() -> None:
    assert example_of({"a": np.array([1]), "b": np.array([[b"\xff"]], object)}, TWO, "golden") is None


def test_what_the_gateway_would_refuse_is_no_example() -> None:
    assert example_of({"x": np.ones((1, 3), np.float32)}, ROWS, "golden") is None
    assert example_of({}, ROWS, "golden") is None


def test_an_example_is_made_up_from_a_signature_unless_it_is_large() -> None:
    one, two = invented(ROWS), invented(TWO)
    assert one is not None
    assert two is not None
    assert (one.body, one.source) == ({"rows": [[1.0, 1.0]]}, "generated")
    assert two.body == {"records": [{"a": 1, "b": [""]}]}
    assert invented(Schema((Tensor("x", "FP32", (-1, 3, 2**20, 2**20)),), ())) is None


def test_an_example_comes_from_the_golden_inputs_in_the_repository(world: World) -> None:
    world.register_times(1)
    world.deploy("d1")
    one = read_example(world.root, MODEL, 1)
    assert one is not None
    assert one.source == "golden"
    (world.root / MODEL / "1" / "smoke.json").write_text("torn")
    other = read_example(world.root, MODEL, 1)
    assert other is not None
    assert other.source == "generated"
    assert read_example(world.root, MODEL, 2) is None
    assert read_example(world.root, "../x", 1) is None


def test_an_example_without_golden_inputs_says_so(world: World) -> None:
    world.register(1, files(times(1.0)))
    world.deploy("d1")
    one = read_example(world.root, MODEL, 1)
    assert one is not None
    assert one.source == "generated"


# The local backend


@pytest.mark.parametrize(
    ("schema", "logged", "body", "source"),
    [
        (ROWS, {"inputs": [[5.1, 3.5], [1, 2]]}, {"rows": [[5.1, 3.5]]}, "input_example"),
        (
            Schema((Tensor("age", "INT64", (-1,)), Tensor("name", "BYTES", (-1,))), ()),
            {"dataframe_split": {"columns": ["age", "name"], "data": [[7, "ada"], [8, "bob"]]}},
            {"records": [{"age": 7, "name": "ada"}]},
            "input_example",
        ),
        (ROWS, {"inputs": "something else"}, {"rows": [[1.0, 1.0]]}, "generated"),
        (ROWS, None, {"rows": [[1.0, 1.0]]}, "generated"),
    ],
)
def test_a_model_of_another_flavor_shows_its_input_example(
    tmp_path: Path, schema: Schema, logged: Any, body: object, source: str
) -> None:
    if logged is not None:
        (tmp_path / "serving_input_example.json").write_text(json.dumps(logged))
    model: Any = SimpleNamespace(schema=schema)
    one = example(Fetched(tmp_path, "", is_onnx=False), model)
    assert one is not None
    assert (one.body, one.source) == (body, source)
