"""What ``triton/config.json`` may set: an allowlist by path, with bounds, and Triton's own rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2

from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.model.engine_options import ALLOWED, CUDA, TENSORRT, check
from ml_code.triton_deploy.model.model_config import check_options, engine_config, to_pbtxt
from ml_code.triton_deploy.rules.schema import Schema, Tensor

SCHEMA = Schema(
    (Tensor("x", "FP32", (-1, 4)), Tensor("words", "BYTES", (-1, 1), optional=True)),
    (Tensor("y", "FP32", (-1, 3)),),
)
LIBRARY = "/models/best_model/7/plugin.so"


def accelerator(name: str, where: str = "gpu", **parameters: Any) -> dict[str, Any]:
    entry = {"name": name, **({"parameters": parameters} if parameters else {})}
    return {"optimization": {"execution_accelerators": {f"{where}_execution_accelerator": [entry]}}}


def warmup(batch: int = 0, **changes: Any) -> dict[str, Any]:
    given = {"data_type": "TYPE_FP32", "dims": [4] if batch else [1, 4], "zero_data": True}
    sample = {"name": "w", "batch_size": 1, "inputs": {"x": given}} | changes
    return {"max_batch_size": batch, "model_warmup": [sample]}


def with_input(**changes: Any) -> dict[str, Any]:
    given = {"data_type": "TYPE_FP32", "dims": [1, 4], "zero_data": True} | changes
    return warmup(inputs={"x": {name: value for name, value in given.items() if value is not None}})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_size": 65536},
        {
            "max_batch_size": 8,
            "dynamic_batching": {
                "preferred_batch_size": [4, 8],
                "max_queue_delay_microseconds": 10_000_000,
                "priority_levels": 100,
                "default_priority_level": 100,
                "default_queue_policy": {
                    "timeout_action": "DELAY",
                    "default_timeout_microseconds": 5,
                    "allow_timeout_override": True,
                    "max_queue_size": 10,
                },
                "priority_queue_policy": {"1": {"max_queue_size": 5}},
            },
        },
        {"max_batch_size": 8, "dynamic_batching": {"preserve_ordering": True, "priority_levels": 1, "default_priority_level": 1}},
        {"instance_group": [{"name": "a.b", "count": 8, "kind": "KIND_CPU"}, {"count": 8}]},
        {"instance_group": [{"kind": "KIND_GPU", "gpus": [0, 1]}]},
        {"optimization": {"graph": {"level": -1}, "input_pinned_memory": {"enable": False}, "eager_batching": True}},
        accelerator("tensorrt", precision_mode="FP16", max_workspace_size_bytes="1073741824"),
        accelerator("tensorrt", trt_profile_min_shapes="a/b:0:1x3x224,c:1", trt_cuda_graph_enable="1"),
        accelerator("cuda", cudnn_conv_algo_search="HEURISTIC", gpu_mem_limit="4294967296"),
        accelerator("openvino", "cpu"),
        {"parameters": {"intra_op_thread_count": 4, "inter_op_thread_count": "2", "execution_mode": {"string_value": "1"}}},
        warmup(),
        warmup(8, batch_size=8, count=100),
        with_input(zero_data=None, random_data=True),
    ],
)  # fmt: skip
def test_what_may_be_set(options: dict[str, Any]) -> None:
    assert to_pbtxt(engine_config("m", 1, SCHEMA, check_options(options, SCHEMA)))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (accelerator("tensorrt", trt_extra_plugin_lib_paths=LIBRARY), "trt_extra_plugin_lib_paths"),
        (accelerator("tensorrt", trt_engine_cache_path="/tmp"), "trt_engine_cache_path"),
        (accelerator("tensorrt", trt_engine_cache_enable="1"), "trt_engine_cache_enable"),
        (accelerator("tensorrt", int8_calibration_table_name="x"), "int8_calibration_table_name"),
        (accelerator("tensorrt", trt_profile_min_shapes=LIBRARY), "trt_profile_min_shapes"),
        (accelerator("tensorrt", precision_mode=LIBRARY), "precision_mode"),
        (accelerator("cuda", user_compute_stream="140737488355328"), "user_compute_stream"),
        (accelerator("cuda", gpu_external_alloc="1"), "gpu_external_alloc"),
        (accelerator("cuda", gpu_mem_limit="18446744073709551615"), "gpu_mem_limit"),
        (accelerator(LIBRARY), "name"),
        (accelerator("cuda", "cpu"), "name"),
        (accelerator("openvino", "cpu", device_id="x"), "device_id"),
        ({"optimization": {"cuda": {"graphs": True}}}, "optimization.cuda"),
        ({"optimization": {"priority": "PRIORITY_MAX"}}, "optimization.priority"),
        ({"optimization": {"graph": {"level": 9}}}, "optimization.graph.level"),
        ({"parameters": {"EXECUTION_ENV_PATH": LIBRARY}}, "parameters.EXECUTION_ENV_PATH"),
        ({"parameters": {"intra_op_thread_count": {"string_value": LIBRARY}}}, "intra_op_thread_count"),
        ({"parameters": {"intra_op_thread_count": 100_000}}, "intra_op_thread_count"),
        ({"parameters": {"execution_mode": True}}, "execution_mode"),
        ({"instance_group": [{"count": 1000}]}, r"instance_group\[0\].count"),
        ({"instance_group": [{"count": 0}]}, r"instance_group\[0\].count"),
        ({"instance_group": [{}] * 17}, "instance_group"),
        ({"instance_group": [{"gpus": [-1]}]}, r"gpus\[0\]"),
        ({"instance_group": [{"profile": ["1"]}]}, "profile"),
        ({"instance_group": [{"host_policy": "x"}]}, "host_policy"),
        ({"instance_group": [{"rate_limiter": {}}]}, "rate_limiter"),
        ({"instance_group": [{"name": "a\x1b[2J"}]}, "name"),
        ({"instance_group": {"count": 1}}, "instance_group"),
        ({"instance_group": [{"kind": 2}]}, "kind"),
        ({"max_batch_size": 2**31}, "max_batch_size"),
        ({"max_batch_size": 4, "dynamic_batching": None}, "dynamic_batching"),
        ({"max_batch_size": 4, "dynamic_batching": {"max_queue_delay_microseconds": 10**13}}, "max_queue_delay_microseconds"),
        ({"max_batch_size": 4, "dynamic_batching": {"priority_levels": 4 * 10**8}}, "priority_levels"),
        (warmup(count=4 * 10**9), "count"),
        (warmup(batch_size=1 << 40), "batch_size"),
        (with_input(dims=[1 << 31, 4]), "dims"),
        (with_input(input_data_file=LIBRARY, zero_data=None), "input_data_file"),
        (with_input(dims=None), "dims"),
        ({"model_warmup": [{"name": "w"}]}, "inputs"),
        ({"sequence_batching": {}}, "sequence_batching"),
        ({"version_policy": {"all": {}}}, "version_policy"),
        ({"model_operations": {"op_library_filename": [LIBRARY]}}, "model_operations"),
    ],
)  # fmt: skip
def test_what_may_not_be_set_is_named_by_its_path(options: dict[str, Any], path: str) -> None:
    with pytest.raises(ArtifactRejected, match=path) as caught:
        check(options, SCHEMA)
    assert caught.value.hint.startswith("Correct it")


def test_what_may_stand_there_is_told_and_what_was_meant() -> None:
    with pytest.raises(ArtifactRejected) as caught:
        check({"maxBatchSize": 4, "instance_groups": []}, SCHEMA)
    assert "sets maxBatchSize, which may not be set; sets instance_groups" in caught.value.message
    assert "Did you mean max_batch_size?" in caught.value.hint
    assert "Did you mean instance_group?" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        # Triton's own words, of model_config_utils.cc and backend_model_instance.cc.
        ({"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}}, "dynamic batching preferred size must be <= max batch size"),
        ({"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [0]}}, "dynamic batching preferred size must be positive"),
        ({"max_batch_size": 4, "dynamic_batching": {"priority_levels": 2}}, r"default priority level must be in range \[1, 2\]"),
        ({"max_batch_size": 4, "dynamic_batching": {"priority_levels": 2, "default_priority_level": 3}}, r"default priority level must be in range \[1, 2\]"),
        ({"max_batch_size": 4, "dynamic_batching": {"priority_levels": 2, "default_priority_level": 1, "priority_queue_policy": {"3": {}}}}, r"priority queue policy must have priority level in range \[1, 2\]"),
        ({"max_batch_size": 4, "dynamic_batching": {"preserve_ordering": True, "priority_levels": 2, "default_priority_level": 1}}, "Only one priority level is allowed"),
        ({"max_batch_size": 4, "dynamic_batching": {"preserve_ordering": True, "default_queue_policy": {"timeout_action": "DELAY", "default_timeout_microseconds": 1}}}, "Queue policy can not have DELAY"),
        ({"instance_group": [{"kind": "KIND_CPU", "gpus": [0]}]}, "has kind KIND_CPU but specifies one or more GPUs"),
        ({"instance_group": [{"kind": "KIND_MODEL", "gpus": [0]}]}, "has kind KIND_MODEL but specifies one or more GPUs"),
        (with_input(zero_data=None), "warmup setting expects input 'x' to have input_data_type set"),
        (with_input(dims=[-1, 4]), "warmup setting expects all variable-size dimensions are specified for input 'x'"),
        (warmup(batch_size=2), "batch size 2, max allowed is 1"),
        # Ours.
        ({"instance_group": [{"count": 9}, {"count": 8}]}, "17 instances"),
        ({"instance_group": [{"gpus": [1, 1]}]}, "names a GPU twice"),
        (with_input(dims=[0, 4]), "each 1 or more"),
        (with_input(dims=[1, 5]), r"has dims \[1, 5\], the model's are \[-1, 4\]"),
        (with_input(dims=[4]), r"has dims \[4\]"),
        (with_input(dims=[10_000_000, 4]), "40000000 numbers"),
        (with_input(data_type="TYPE_INT8"), "has data_type TYPE_INT8, the model's is TYPE_FP32"),
        (with_input(random_data=True), "one of zero_data and random_data"),
        (warmup(inputs={}), "input 'x' of the model is missing"),
        ({"model_warmup": warmup(count=60)["model_warmup"] * 2}, "120 runs"),
        ({"dynamic_batching": {}}, "without max_batch_size"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_here(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactRejected, match=said):
        check(options, SCHEMA)


def test_a_warm_up_that_triton_skips_is_told(caplog: pytest.LogCaptureFixture) -> None:
    check(warmup(batch_size=1), SCHEMA)
    assert not caplog.records
    check(warmup(batch_size=0), SCHEMA)
    assert "model_warmup[0] of triton/config.json is not used" in caplog.text


def strings(message: Descriptor, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every place of Triton's message that takes a text, with options that set it to the name of a library."""
    for field in message.fields:
        entry = field.message_type
        wrap = (lambda inner: [inner]) if field.is_repeated else (lambda inner: inner)
        if field.type == FieldDescriptor.TYPE_STRING:
            yield field.name, {field.name: wrap(LIBRARY)}
        elif entry and entry.GetOptions().map_entry:
            value = entry.fields_by_name["value"]
            if value.type == FieldDescriptor.TYPE_STRING:
                yield field.name, {field.name: {"x": LIBRARY}}
            else:
                for name, inner in strings(value.message_type):
                    yield f"{field.name}.{name}", {field.name: {"x": inner}}
        elif entry and entry is not message:
            for name, inner in strings(entry):
                yield f"{field.name}.{name}", {field.name: wrap(inner)}


PLACES = dict(strings(model_config_pb2.ModelConfig.DESCRIPTOR))


def test_the_walk_finds_the_places_that_name_files() -> None:
    assert {
        "model_operations.op_library_filename",
        "model_warmup.inputs.input_data_file",
        "optimization.execution_accelerators.gpu_execution_accelerator.parameters",
        "instance_group.host_policy",
    } <= set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_no_text_anywhere_can_be_a_file(place: str) -> None:
    """Also what a later Triton adds: the list of places is that of Triton's own message."""
    with pytest.raises(ArtifactRejected):
        check(PLACES[place], SCHEMA)


@pytest.mark.parametrize("name", [*TENSORRT, *CUDA])
@pytest.mark.parametrize("text", [LIBRARY, "../x", "C:\\x.dll", "", "a b", 1, None, [], True])
def test_no_parameter_of_an_accelerator_can_be_a_file(name: str, text: object) -> None:
    which = "tensorrt" if name in TENSORRT else "cuda"
    with pytest.raises(ArtifactRejected):
        check(accelerator(which, **{name: text}), SCHEMA)


def test_the_texts_of_a_hostile_file_are_short_and_printable() -> None:
    hostile = {"\x1b[2J" + "a" * 1_000_000: 1, "max_batch_size": "\n" + "b" * 1_000_000}
    with pytest.raises(ArtifactRejected) as caught:
        check(json.loads(json.dumps(hostile)), SCHEMA)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_every_option_is_one_of_tritons() -> None:
    assert set(ALLOWED.of) <= set(model_config_pb2.ModelConfig.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (Schema((), SCHEMA.outputs), "must specify 'input_map' in step 0 of ensemble"),
        (Schema((Tensor("x", "FP32", (0, 3)),), SCHEMA.outputs), "dimension must be integer >= 1"),
    ],
)  # fmt: skip
def test_tensors_that_triton_refuses_in_any_configuration(schema: Schema, said: str) -> None:
    with pytest.raises(ArtifactRejected, match=said) as caught:
        check_options({}, schema)
    assert "log it again" in caught.value.hint
