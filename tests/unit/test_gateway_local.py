"""A model in the gateway's own process is asked and answers in the shapes that Triton's clients have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx.parser import parse_model

from ml_code.gateway.local.files import Fetched
from ml_code.gateway.local.models import LocalModel, load
from ml_code.triton_deploy.settings import Settings
from tests.support.models import write

SCALED = """<ir_version: 9, opset_import: ["" : 17]> scaled (float[N] x, float s) => (float[N] y, float sum) {
    y = Mul (x, s)
    sum = ReduceSum <keepdims = 0> (y)
}"""


def scaled(folder: Path, **files: bytes) -> LocalModel:
    model = parse_model(SCALED)
    # An output whose rank the file does not tell, and ONNX Runtime finds.
    model.graph.output[0].type.tensor_type.ClearField("shape")
    named = {name.replace("__", "/").replace("_json", ".json"): data for name, data in files.items()}
    write(folder, {"model.onnx": model.SerializeToString(), **named})
    return load(Fetched(folder, "digest", is_onnx=True), Settings(), 1)


def test_a_scalar_is_a_list_of_one_to_clients(tmp_path: Path) -> None:
    model = scaled(tmp_path)
    assert [str(tensor) for tensor in (*model.schema.inputs, *model.schema.outputs)] == [
        "x FP32[-1]",
        "s FP32[1]",
        "y FP32[-1]",
        "sum FP32[1]",
    ]
    answers = model.run({"x": np.ones(3, np.float32), "s": np.full(1, 2, np.float32)})
    assert {name: answer.tolist() for name, answer in answers.items()} == {"y": [2.0, 2.0, 2.0], "sum": [6.0]}


@pytest.mark.parametrize("shape", [[], [1]])
def test_golden_data_may_have_a_scalar_either_way(tmp_path: Path, shape: list[int]) -> None:
    def tensor(name: str, shape: list[int], *data: float) -> dict[str, object]:
        return {"name": name, "datatype": "FP32", "shape": shape, "data": list(data)}

    golden = {
        "inputs": [tensor("x", [2], 1, 2), tensor("s", shape, 3)],
        "outputs": [tensor("y", [2], 3, 6), tensor("sum", shape, 9)],
    }
    assert scaled(tmp_path, triton__golden_json=json.dumps(golden).encode())
