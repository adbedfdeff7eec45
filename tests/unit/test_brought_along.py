"""What a version brings along besides its model, in a whole deploy: what is refused before Triton sees it, and what is told."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.rules.version_files import MOST_BYTES, OPTIONS
from tests.support.models import files, golden, times
from tests.support.world import World

GOOD = times(2.0)


def model(*nodes: onnx.NodeProto, element: int = TensorProto.FLOAT, shape: tuple[object, ...] = ("n", 2)) -> onnx.ModelProto:  # fmt: skip
    """A model from x to y, both alike."""
    x, y = (helper.make_tensor_value_info(name, element, list(shape)) for name in "xy")
    graph = helper.make_graph(list(nodes), "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def identity(element: int = TensorProto.FLOAT, shape: tuple[object, ...] = ("n", 2)) -> onnx.ModelProto:
    return model(helper.make_node("Identity", ["x"], ["y"]), element=element, shape=shape)


def without_inputs() -> onnx.ModelProto:
    constant = numpy_helper.from_array(np.ones((1, 2), np.float32), "c")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [constant],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def sparse_elsewhere() -> onnx.ModelProto:
    bad = times(2.0)
    values, indices = (
        numpy_helper.from_array(np.ones(1, kind), name) for kind, name in ((np.float32, "s"), (np.int64, "i"))
    )
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="weights.bin")
    bad.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return bad


def options(**given: object) -> bytes:
    return json.dumps(given).encode()


@pytest.mark.parametrize(
    ("artifact", "message", "remedy"),
    [
        (files(identity(shape=(0, 2))), "dimension must be integer >= 1", "dynamic or at least 1"),
        (files(without_inputs()), "no inputs.*must specify 'input_map'", "Give the model an input"),
        (files(identity(TensorProto.BFLOAT16)), "'x': it has type BFLOAT16", "Put a Cast"),
        (files(sparse_elsewhere()), "the sparse tensor 's' in another file", "make them dense"),
        (
            files(GOOD, triton__config_json=options(instance_group=[{"count": 99}])),
            r"instance_group\[0\]\.count 99",
            "Correct it",
        ),
        (files(GOOD, triton__config_json=b"[" * 100_000), "is not JSON", "Correct it"),
        (
            files(GOOD, triton__config_json=b" " * (MOST_BYTES[OPTIONS] + 1)),
            "triton/config.json has 1048577 bytes, more than the 1048576 that are read",
            "smaller",
        ),
    ],
)
def test_what_triton_would_refuse_is_refused_before_it_sees_it(
    world: World, artifact: dict[str, bytes], message: str, remedy: str
) -> None:
    world.register(1, artifact)
    with pytest.raises(ArtifactRejected, match=message) as refused:
        world.deploy("d1")
    assert re.search(remedy, refused.value.hint)
    assert not any(call.startswith("load ") for call in world.triton.calls)


def test_what_is_not_used_is_told_by_the_deploy(world: World, caplog: pytest.LogCaptureFixture) -> None:
    brought = {
        "config.pbtxt": b"max_batch_size: 8",
        "serving_input_example.json": b'{"inputs": [[1, 2, 3]]}',
    }
    world.register(1, files(GOOD) | brought)
    world.deploy("d1")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(
        text.startswith("config.pbtxt is not used: Triton's configuration is generated") for text in told
    )
    assert any("input example" in text and "the model takes [-1, 2]" in text for text in told)


def test_a_model_that_wants_positive_numbers_is_told_that_its_inputs_were_invented(world: World) -> None:
    world.register(1, files(model(helper.make_node("Log", ["x"], ["y"]))))
    with pytest.raises(
        ArtifactRejected, match=r"own answer to inputs that were invented.* is not finite"
    ) as failed:
        world.deploy("d1")
    assert "log some as a new version: triton/golden.json" in failed.value.hint


def test_golden_inputs_are_the_way_out(world: World) -> None:
    rows = np.array([[1.0, 2.0]], np.float32)
    tensor = {"datatype": "FP32", "shape": [1, 2]}
    case = {
        "inputs": [{"name": "x", "data": rows.tolist(), **tensor}],
        "outputs": [{"name": "y", "data": np.log(rows).tolist(), **tensor}],
    }
    log = model(helper.make_node("Log", ["x"], ["y"]))
    world.register(1, files(log, triton__golden_json=json.dumps(case).encode()))
    world.deploy("d1")
    world.register(2, files(times(2.0), triton__golden_json=golden(2.0)))
    world.deploy("d2")
