"""The rules of NVIDIA's backend and of Triton's core that docs/models.md lists: what we write passes them, and else the stand-in refuses.

Each test stands in that table beside the function of NVIDIA's source that has the rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.model import model_config, onnx_model
from ml_code.triton_deploy.rules.schema import Schema, Tensor, public_tensor
from tests.support.stand_in import stand_in

REPO = Path(__file__).parents[2]
MODELS = REPO / "docs/models.md"
_, backend = stand_in()
X, Y = Tensor("x", "FP32", (-1, 3)), Tensor("y", "FP32", (-1, 2))
ROWS = Schema((X,), (Y,))


def session(schema: Schema) -> Any:
    """What the backend's session has of a model of this schema."""

    def infos(tensors: tuple[Tensor, ...]) -> dict[str, Any]:
        return {
            one.name: backend.TensorInfo(
                "TYPE_STRING" if one.datatype == "BYTES" else f"TYPE_{one.datatype}", one.shape
            )
            for one in tensors
        }

    required = tuple(one for one in schema.inputs if not one.optional)
    optional = tuple(one for one in schema.inputs if one.optional)
    return backend.Signature(infos(required), infos(schema.outputs), infos(optional))


def engine(schema: Schema, **options: Any) -> dict[str, Any]:
    return model_config.engine_config("m", 1, schema, options)


def taken(schema: Schema, **options: Any) -> dict[str, Any]:
    """Return the configuration that we write, which the backend takes."""
    config = engine(schema, **options)
    backend.validate_config(config, session(schema))
    return config


def refused(config: dict[str, Any], schema: Schema, words: str) -> None:
    with pytest.raises(backend.ModelError, match=words):
        backend.validate_config(config, session(schema))


def changed(config: dict[str, Any], role: str, **changes: Any) -> dict[str, Any]:
    """Return a configuration whose first tensor of a role differs."""
    first, *others = config[role]
    return {**config, role: [{**first, **changes}, *others]}


# ValidateInputs


def test_every_required_input_is_configured() -> None:
    config = taken(ROWS)
    refused({**config, "input": []}, ROWS, "input 'x' of the file is required")


def test_an_input_that_the_model_lacks_is_refused() -> None:
    config = engine(Schema((X, replace(X, name="z")), (Y,)))
    refused(config, ROWS, "names input 'z', but the file has")


def test_the_type_of_an_input_is_the_models() -> None:
    refused(changed(taken(ROWS), "input", data_type="TYPE_FP64"), ROWS, "'x': the file has TYPE_FP32")


def test_an_open_size_of_an_input_takes_any_configured_size() -> None:
    backend.validate_config(changed(taken(ROWS), "input", dims=[7, 3]), session(ROWS))


@pytest.mark.parametrize("dims", [[-1, 4], [-1, -1], [3], [-1, 3, 1]])
def test_a_fixed_size_and_the_rank_of_an_input_are_the_models(dims: list[int]) -> None:
    refused(changed(taken(ROWS), "input", dims=dims), ROWS, r"input 'x': the file has \[-1, 3\]")


def test_a_default_in_the_file_is_an_optional_input() -> None:
    schema = Schema((X, Tensor("w", "FP32", (1,), optional=True)), (Y,))
    config = taken(schema)
    assert config["input"][1]["optional"] is True
    required = {**config, "input": [config["input"][0], {**config["input"][1], "optional": False}]}
    refused(required, schema, "input 'w': 'optional' must be")
    refused(changed(taken(ROWS), "input", optional=True), ROWS, "input 'x': 'optional' must be")


def test_an_optional_input_goes_with_no_batch_size() -> None:
    schema = Schema((X, Tensor("w", "FP32", (-1,), optional=True)), (Y,))
    refused(engine(schema, max_batch_size=4), schema, "'w' is optional: max_batch_size must be 0")


# ValidateOutputs


def test_an_output_that_the_model_lacks_is_refused() -> None:
    refused(changed(taken(ROWS), "output", name="z"), ROWS, "names output 'z', but the file has")


def test_outputs_may_be_left_out() -> None:
    two = Schema((X,), (Y, replace(Y, name="z")))
    config = taken(two)
    backend.validate_config({**config, "output": config["output"][1:]}, session(two))


def test_the_type_of_an_output_is_the_models() -> None:
    refused(changed(taken(ROWS), "output", data_type="TYPE_INT64"), ROWS, "'y': the file has TYPE_FP32")


@pytest.mark.parametrize("dims", [[-1, -1], [7, 2], [-1, 3], [2]])
def test_every_size_of_an_output_is_exactly_the_models(dims: list[int]) -> None:
    refused(changed(taken(ROWS), "output", dims=dims), ROWS, r"output 'y': the file has \[-1, 2\]")


# CompareDimsSupported


def test_a_batch_size_wants_an_open_first_dimension_everywhere() -> None:
    assert taken(ROWS, max_batch_size=4)["input"][0]["dims"] == [3]
    for fixed in (
        Schema((replace(X, shape=(1, 3)),), (Y,)),
        Schema((X,), (replace(Y, shape=(1, 2)),)),
    ):
        refused(engine(fixed, max_batch_size=4), fixed, "the file has")
        with pytest.raises(ArtifactRejected, match="not every input and output has a dynamic first"):
            model_config.check_options({"max_batch_size": 4}, fixed)


def test_a_reshape_is_compared_in_place_of_the_dims() -> None:
    config = changed(taken(ROWS, max_batch_size=4), "input", dims=[1, 3], reshape={"shape": [3]})
    backend.validate_config(config, session(ROWS))
    refused(changed(config, "input", reshape={"shape": [4]}), ROWS, "input 'x'")


# The scalar rule


def test_a_scalar_has_dims_of_one_and_no_reshape() -> None:
    schema = Schema((Tensor("x", "FP32", ()),), (Tensor("y", "FP32", ()),))
    config = taken(schema)
    for role in ("input", "output"):
        assert (config[role][0]["dims"], "reshape" in config[role][0]) == ([1], False)
        refused(changed(config, role, dims=[2]), schema, r"the file has \[\], the configuration says \[2\]")
        refused(changed(config, role, dims=[-1]), schema, r"the file has \[\]")
    assert public_tensor(schema.inputs[0], {}).shape == (1,)


def test_a_scalar_a_row_is_reshaped_behind_the_batch_dimension() -> None:
    schema = Schema((Tensor("x", "FP32", (-1,)),), (Tensor("y", "FP32", (-1,)),))
    config = taken(schema, max_batch_size=4)
    for role in ("input", "output"):
        assert (config[role][0]["dims"], config[role][0]["reshape"]) == ([1], {"shape": []})
    assert public_tensor(schema.inputs[0], {"max_batch_size": 4}).shape == (-1, 1)


# OnnxDataTypeToModelConfigDataType


def test_the_types_are_those_of_the_backend_without_bf16() -> None:
    ours = {"TYPE_STRING" if one == "BYTES" else f"TYPE_{one}" for one in onnx_model.DATATYPES.values()}
    nvidias = {
        *(f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
        *("TYPE_BOOL", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
    }
    assert ours == set(backend.TRITON_TYPES.values()) == nvidias - {"TYPE_BF16"}


# AutoComplete


def test_what_we_write_needs_no_completion() -> None:
    """Else the backend would choose a batch size: see ``AutoCompleteMaxBatch``."""
    config = taken(ROWS)
    assert config["input"]
    assert config["output"]
    assert config["max_batch_size"] == 0


@pytest.mark.parametrize("shape", [(-1, 2), (-1,), (3, 2)])
def test_a_completed_configuration_is_taken(shape: tuple[int, ...]) -> None:
    schema = Schema((X,), (replace(Y, shape=shape),))
    completed = backend.complete_config({"name": "m", "max_batch_size": 0}, session(schema), 4)
    assert completed["max_batch_size"] == (4 if shape[0] == -1 else 0)
    backend.validate_config(completed, session(schema))


# ValidateIOShape of the core


@pytest.mark.parametrize("role", ["inputs", "outputs"])
def test_a_dimension_of_zero_is_refused(role: str) -> None:
    schema = replace(ROWS, **{role: (Tensor("t", "FP32", (-1, 0)),)})  # type: ignore[arg-type]
    with pytest.raises(ArtifactRejected, match="dimension must be integer >= 1"):
        model_config.check_tensors(schema)


@pytest.mark.parametrize("batch", [0, 4])
@pytest.mark.parametrize("shape", [(-1,), (-1, 3), (-1, -1, 1)])
def test_the_core_takes_the_dims_that_we_write(shape: tuple[int, ...], batch: int) -> None:
    schema = Schema((replace(X, shape=shape),), (replace(Y, shape=shape),))
    config = engine(schema, **({"max_batch_size": batch} if batch else {}))
    for tensor in (*config["input"], *config["output"]):
        core_takes(tensor, batch)
    scalar = engine(Schema((replace(X, shape=()),), (replace(Y, shape=()),)))
    core_takes(scalar["input"][0], 0)


def core_takes(tensor: Mapping[str, Any], batch: int) -> None:
    """ValidateIOShape in model_config_utils.cc."""
    dims, reshape = tensor["dims"], tensor.get("reshape")
    assert dims
    assert all(size == -1 or size >= 1 for size in dims)
    if reshape is not None:
        assert batch > 0
        assert reshape["shape"] == []
        assert dims == [1]


# The ensemble


def test_a_model_without_inputs_is_refused() -> None:
    with pytest.raises(ArtifactRejected, match="must specify 'input_map'"):
        model_config.check_tensors(Schema((), (Y,)))


@pytest.mark.parametrize("batch", [0, 4])
@pytest.mark.parametrize("shape", [(-1,), (-1, 3)])
def test_the_ensemble_has_the_engines_public_tensors(shape: tuple[int, ...], batch: int) -> None:
    schema = Schema((replace(X, shape=shape),), (replace(Y, shape=shape),))
    options = {"max_batch_size": batch} if batch else {}
    switch = model_config.switch_config("m", 1, schema, options)
    config = engine(schema, **options)
    for role in ("input", "output"):
        assert [(one["name"], one["data_type"], one["dims"]) for one in switch[role]] == [
            (one["name"], one["data_type"], one["dims"]) for one in config[role]
        ]
        assert not any("reshape" in one for one in switch[role])
    assert switch["max_batch_size"] == config["max_batch_size"] == batch
    (step,) = switch["ensemble_scheduling"]["step"]
    assert step["input_map"] == {"x": "x"}
    assert step["output_map"] == {"y": "y"}


# The table


def names_in(path: Path) -> set[str]:
    """Names of the tests of a file, as pytest has them."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def test_every_test_that_the_documents_name_exists() -> None:
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?((?:Test\w+::)?test_\w+)`", MODELS.read_text())
    assert len(named) > 20
    for path, name in named:
        assert name in names_in(REPO / (path or "tests/unit/test_nvidia_rules.py")), f"{path} {name}"


def test_every_rule_here_is_in_the_documents() -> None:
    text = MODELS.read_text()
    about_the_table = {
        test_every_test_that_the_documents_name_exists.__name__,
        test_every_rule_here_is_in_the_documents.__name__,
    }
    missing = {name for name in names_in(Path(__file__)) - about_the_table if f"`{name}`" not in text}
    assert not missing
