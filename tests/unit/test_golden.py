"""Smoke cases: where they come from and what passes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ml_code.triton_deploy.errors import ArtifactRejected, VerificationFailed
from ml_code.triton_deploy.model.derived_case import derive_case
from ml_code.triton_deploy.model.smoke_case import SmokeCase, asked_with, largest_error, parse_case
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from tests.support.models import golden, times

SCHEMA = Schema((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1, 2)),))


def case(values: list[float], **tolerance: float) -> SmokeCase:
    return SmokeCase("golden", {}, {"y": np.array([values], np.float32)}, **tolerance)


def answer(values: list[float]) -> dict[str, np.ndarray]:
    return {"y": np.array([values], np.float32)}


def test_a_case_reads_back() -> None:
    one = parse_case(golden(2.0, tolerance={"rtol": 0.5}).decode(), SCHEMA)
    again = parse_case(one.to_json(), SCHEMA)
    assert again.source == "golden"
    assert again.rtol == 0.5
    np.testing.assert_array_equal(again.outputs["y"], [[2.0, 4.0]])


def test_strings_read_back() -> None:
    schema = Schema((Tensor("s", "BYTES", (-1,)),), (Tensor("t", "BYTES", (-1,)),))
    words = np.array([b"a", "ä".encode()], np.object_)
    again = parse_case(SmokeCase("golden", {"s": words}, {"t": words}).to_json(), schema)
    assert largest_error(again, {"t": words}, rtol=0, atol=0) == 0
    with pytest.raises(VerificationFailed, match="strings"):
        largest_error(again, {"t": np.array([b"a", b"b"], np.object_)}, rtol=0, atol=0)


def test_an_answer_within_the_tolerance_passes() -> None:
    assert largest_error(case([1.0, 100.0]), answer([1.0, 100.05]), rtol=1e-3, atol=0) == pytest.approx(
        0.05, rel=1e-3
    )


def test_the_cases_own_tolerance_wins() -> None:
    with pytest.raises(VerificationFailed, match="off by up to"):
        largest_error(case([1.0], rtol=0.0, atol=1e-6), answer([1.1]), rtol=1, atol=1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_answer_that_is_not_finite_passes_where_it_is_expected(value: float) -> None:
    expected = parse_case(json.dumps(json.loads(golden(1.0)) | {"outputs": [output([value, 1.0])]}), SCHEMA)
    assert largest_error(expected, answer([value, 1.5]), rtol=0, atol=1) == 0.5


@pytest.mark.parametrize(
    ("expected", "got"),
    [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, INF), (INF, -INF), (NAN, INF), (INF, NAN), (-INF, 3e38)],
)
def test_an_answer_that_is_not_finite_fails_anywhere_else(expected: float, got: float) -> None:
    with pytest.raises(VerificationFailed, match="not finite where others are expected"):
        largest_error(case([1.0, expected]), answer([1.0, got]), rtol=1, atol=1)


def output(values: list[float]) -> dict[str, object]:
    return {"name": "y", "datatype": "FP32", "shape": [1, len(values)], "data": values}


def test_a_missing_output_fails() -> None:
    with pytest.raises(VerificationFailed, match="y is missing"):
        largest_error(case([1.0]), {}, rtol=1, atol=1)


def test_another_shape_fails_except_for_a_scalar_per_row() -> None:
    with pytest.raises(VerificationFailed, match="shape"):
        largest_error(case([1.0, 2.0]), {"y": np.ones((2, 2), np.float32)}, rtol=9, atol=9)
    labels = SmokeCase("golden", {}, {"y": np.array([1, 0])})
    assert largest_error(labels, {"y": np.array([[1], [0]])}, rtol=0, atol=0) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"inputs": [], "outputs": []}',
        golden(1.0).decode().replace("FP32", "FP31"),
        golden(1.0).decode().replace('"shape": [1, 2]', '"shape": [3, 3]'),
        golden(1.0, target="z").decode(),
    ],
)
def test_a_golden_file_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ArtifactRejected, match="golden file") as caught:
        parse_case(text, SCHEMA)
    assert "golden.json" in caught.value.hint


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(times(3.0).SerializeToString())
    return path


@pytest.mark.parametrize(
    "example",
    [
        {"inputs": [[1.0, 2.0]]},
        {"inputs": {"x": [[1.0, 2.0]]}},
        {"instances": [[1.0, 2.0]]},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 2.0]]}},
    ],
)
def test_mlflows_input_example_is_used(model_file: Path, example: dict[str, object]) -> None:
    derived = derive_case(model_file, SCHEMA, json.dumps(example))
    assert derived.source == "input_example"
    np.testing.assert_array_equal(derived.outputs["y"], [[3.0, 6.0]])


@pytest.mark.parametrize(
    "example", [None, "junk", "{}", '{"inputs": [1.0]}', '{"inputs": {"z": [[1.0, 2.0]]}}']
)
def test_otherwise_inputs_are_generated(model_file: Path, example: str | None) -> None:
    derived = derive_case(model_file, SCHEMA, example)
    assert derived.source == "generated"
    assert derived.inputs["x"].shape == (1, 2)
    np.testing.assert_allclose(derived.outputs["y"], 3 * derived.inputs["x"])


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ("junk", "not in MLflow's scoring protocol"),
        ("[" * 100_000, "not in MLflow's scoring protocol"),
        ('{"inputs": [1.0]}', r"for 'x' have shape \[1\], the model takes \[-1, 2\]"),
        ('{"inputs": [[1.0, 2.0, 3.0]]}', r"for 'x' have shape \[1, 3\], the model takes \[-1, 2\]"),
        ('{"inputs": [["a", "b"]]}', "values for 'x' are not FP32"),
        ('{"inputs": {"z": [[1.0, 2.0]]}}', "it has 'z', which is not an input of the model"),
        ('{"inputs": {}}', "it lacks the input 'x'"),
        ('{"inputs": {"\\u001b[2J": 1}}', r"it has '\\x1b\[2J'"),
    ],
)
def test_an_input_example_that_is_not_used_is_told_with_why(
    model_file: Path, example: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert derive_case(model_file, SCHEMA, example).source == "generated"
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(why, told)
    assert "Inputs are invented instead" in told


@pytest.mark.parametrize(
    ("source", "words", "remedy"),
    [
        ("golden", "answers wrongly: output y", "Compare the model with what was trained"),
        ("generated", "wrongly to inputs that were invented, since it was logged without", "log some as a new version"),
        ("input_example", "wrongly to MLflow's input example: output y", "triton/golden.json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"y": np.array([[np.nan]], np.float32)},
        {"y": np.array([[2]], np.float32)},
        {"y": np.ones((2, 3), np.float32)},
    ],
)
def test_a_failed_comparison_says_where_the_inputs_came_from(
    source: str, words: str, remedy: str, answers: dict[str, np.ndarray]
) -> None:
    asked = SmokeCase(source, {}, {"y": np.array([[1]], np.float32)})
    with pytest.raises(VerificationFailed, match=words) as failed:
        largest_error(asked, answers, rtol=1e-3, atol=1e-5)
    assert remedy in failed.value.hint


def test_a_model_that_fails_on_invented_inputs_is_told_so() -> None:
    said = ArtifactRejected(
        "Triton failed asking m.v2: no.", hint="the golden inputs logged with it need repair"
    )
    assert asked_with(SmokeCase("golden", {}, {}), said) is said
    told = asked_with(SmokeCase("generated", {}, {}), said)
    assert told.message.startswith(
        "Triton failed asking m.v2: no. It was asked with inputs that were invented"
    )
    assert "log some as a new version" in told.hint


def test_a_golden_file_cant_pass_for_something_else() -> None:
    case = json.loads(SmokeCase("golden", {"x": np.ones((1, 2), np.float32)}, {"y": np.ones(1)}).to_json())
    schema = Schema((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP64", (-1,)),))
    assert parse_case(json.dumps(case | {"source": "\x1b[2J"}), schema).source == "golden"
    assert parse_case(json.dumps(case | {"source": "generated"}), schema).source == "generated"
