"""What was logged beside a model and is not used."""

from __future__ import annotations

import pytest

from ml_code.triton_deploy.rules.unused import unused

# What MLflow's flavors log, and what belongs to a model.
ORDINARY = [
    "MLmodel",
    "model.onnx",
    "model.onnx.data",
    "weights/a.bin",
    "conda.yaml",
    "python_env.yaml",
    "requirements.txt",
    "input_example.json",
    "serving_input_example.json",
    "registered_model_meta",
    "metadata/MLmodel",
    "config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/config.json",
    "triton/golden.json",
    "triton/config.json",
]


def test_nothing_is_said_of_what_is_used_or_is_mlflows() -> None:
    assert unused(ORDINARY) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("config.pbtxt", ("config.pbtxt is not used", "triton/config.json", "max_batch_size")),
        ("triton/config.pbtxt", ("triton/config.pbtxt is not used", "generated")),
        ("1/Config.PBTXT", ("1/Config.PBTXT is not used",)),
        ("triton/golden_inputs.json", ("only triton/golden.json and triton/config.json are read",)),
        ("triton/Config.json", ("only triton/golden.json and triton/config.json are read",)),
        ("golden.json", ("golden.json is not used", "read as triton/golden.json only")),
        ("config.pbtxt\x1b[2J", ()),
    ],
)
def test_what_was_meant_for_triton_is_told_with_why(path: str, words: tuple[str, ...]) -> None:
    told = unused([*ORDINARY, path])
    assert len(told) == bool(words)
    for word in words:
        assert word in told[0]


def test_an_example_of_an_older_mlflow_is_told_when_nothing_takes_its_place() -> None:
    (told,) = unused(["model.onnx", "input_example.json"])
    assert "Inputs are invented instead" in told
    assert unused(["input_example.json", "triton/golden.json"]) == []
    assert unused(["input_example.json", "serving_input_example.json"]) == []


def test_a_folder_full_of_them_is_counted() -> None:
    told = unused(f"triton/{number}\n" for number in range(1000))
    assert len(told) == 6
    assert told[-1] == "995 more files are not used."
    assert all(sentence.isprintable() for sentence in told)
