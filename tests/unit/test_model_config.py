"""Generated Triton configurations; Triton's own message decides what is one."""

from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.model.model_config import check_options, engine_config, switch_config, to_pbtxt
from ml_code.triton_deploy.rules.schema import Schema, Tensor

SCHEMA = Schema(
    (Tensor("x", "FP32", (-1, 4)), Tensor("words", "BYTES", (-1, 1), optional=True)),
    (Tensor("label", "INT64", (-1,)), Tensor("p", "FP32", (-1, 3))),
)


def parsed(config: dict[str, Any]) -> Any:
    return text_format.Parse(to_pbtxt(config), model_config_pb2.ModelConfig())


def test_the_engine_holds_exactly_one_version() -> None:
    config = parsed(engine_config("m", 13, SCHEMA, {}))
    assert config.name == "m.v13"
    assert config.backend == "onnxruntime"
    assert list(config.version_policy.specific.versions) == [13]
    assert config.max_batch_size == 0
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [
        [-1, 4],
        [-1, 1],
        [-1],
        [-1, 3],
    ]
    assert config.input[1].data_type == model_config_pb2.TYPE_STRING
    assert [tensor.optional for tensor in config.input] == [False, True]


def test_with_batching_the_first_dimension_is_tritons() -> None:
    options = check_options(
        {"max_batch_size": 8, "dynamic_batching": {"max_queue_delay_microseconds": 100}}, SCHEMA
    )
    config = parsed(engine_config("m", 13, SCHEMA, options))
    assert config.max_batch_size == 8
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[4], [1], [1], [3]]
    assert config.output[0].HasField("reshape")
    assert not config.output[1].HasField("reshape")


def test_the_switch_points_at_the_engine_under_the_same_number() -> None:
    config = parsed(switch_config("m", 13, SCHEMA, {}))
    (step,) = config.ensemble_scheduling.step
    assert (config.name, config.platform) == ("m", "ensemble")
    assert list(config.version_policy.specific.versions) == [13]
    assert (step.model_name, step.model_version) == ("m.v13", 13)
    assert dict(step.input_map) == {"x": "x", "words": "words"}
    assert dict(step.output_map) == {"label": "label", "p": "p"}


def test_the_switch_has_the_engines_batch_size() -> None:
    assert parsed(switch_config("m", 13, SCHEMA, {"max_batch_size": 8})).max_batch_size == 8


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"instance_group": [{"count": 2, "kind": "KIND_CPU"}]},
        {"instance_group": [{"count": 1, "kind": "KIND_GPU", "gpus": [0]}]},
        {"optimization": {"graph": {"level": 1}}},
        {"parameters": {"intra_op_thread_count": 2}},
        {
            "model_warmup": [
                {
                    "name": "w",
                    "batch_size": 1,
                    "inputs": {"x": {"data_type": "TYPE_FP32", "dims": [1, 4], "zero_data": True}},
                }
            ]
        },
    ],
)
def test_options_that_a_model_version_may_set(options: dict[str, Any]) -> None:
    assert parsed(engine_config("m", 1, SCHEMA, check_options(options, SCHEMA)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "not a JSON object"),
        ({"backend": "python"}, "backend"),
        ({"default_model_filename": "x"}, "default_model_filename"),
        ({"parameters": {"EXECUTION_ENV_PATH": "/x"}}, "EXECUTION_ENV_PATH"),
        ({"parameters": []}, "parameters"),
        ({"max_batch_size": "8"}, "max_batch_size"),
        ({"max_batch_size": -1}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"dynamic_batching": {}}, "without max_batch_size"),
        ({"instance_group": [{"kind": "KIND_TPU"}]}, "KIND_TPU"),
        ({"optimization": {"nonsense": 1}}, "nonsense"),
        ({"model_warmup": [{"inputs": {"x": {"input_data_file": "../../etc/passwd"}}}]}, "input_data_file"),
    ],
)
def test_options_that_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ArtifactRejected, match=message) as caught:
        check_options(options, SCHEMA)
    assert caught.value.hint


def test_batching_needs_a_batch_dimension() -> None:
    fixed = Schema((Tensor("x", "FP32", (1, 4)),), (Tensor("y", "FP32", (1, 4)),))
    with pytest.raises(ArtifactRejected, match="dynamic first dimension"):
        check_options({"max_batch_size": 8}, fixed)


@pytest.mark.parametrize(
    ("options", "dims", "reshaped"),
    [({}, {"s": [1], "r": [-1]}, False), ({"max_batch_size": 4}, {"r": [1]}, True)],
)
def test_a_scalar_has_one_element_and_is_reshaped_behind_a_batch_only(
    options: dict[str, int], dims: dict[str, list[int]], reshaped: bool
) -> None:
    shapes: dict[str, tuple[int, ...]] = {"s": (), "r": (-1,)}
    schema = Schema(
        (Tensor("x", "FP32", (-1, 2)),), tuple(Tensor(name, "FP32", shapes[name]) for name in dims)
    )
    engine = parsed(engine_config("m", 1, schema, check_options(options, schema)))
    switch = parsed(switch_config("m", 1, schema, options))
    assert {one.name: list(one.dims) for one in engine.output} == dims
    assert {one.name: list(one.dims) for one in switch.output} == dims
    assert {one.HasField("reshape") for one in engine.output} == {reshaped}
    assert {one.HasField("reshape") for one in switch.output} == {False}
