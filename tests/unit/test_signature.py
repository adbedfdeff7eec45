"""Inputs and outputs are what ONNX Runtime says of a model, without reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.model import reference
from ml_code.triton_deploy.model.onnx_model import inspect
from ml_code.triton_deploy.model.onnx_outline import linked_outline
from ml_code.triton_deploy.model.reference import ModelProcess
from ml_code.triton_deploy.model.reference_limits import Limits, ModelFailed
from ml_code.triton_deploy.model.signature import Port, Signer, signature_of
from tests.support.models import external, times, unknown_operator, write
from tests.support.signing import declared

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
X = {"x": (FLOAT, ["N", 64])}
OPEN = {"y": (FLOAT, ["N", "M"])}
"""An output of two open dimensions, of which ONNX Runtime knows the second."""
ANY = Limits()

Kinds = Mapping[str, tuple[int, Any]]


def tensors(named: Kinds) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, element, shape) for name, (element, shape) in named.items()]


def model(
    nodes: list[onnx.NodeProto], inputs: Kinds, outputs: Kinds, *kept: TensorProto, **versions: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", tensors(inputs), tensors(outputs), list(kept))
    opsets = [helper.make_opsetid("", versions.pop("opset", 17)), *versions.pop("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, **{"ir_version": 9} | versions)


def weights(name: str = "w", dtype: type = np.float32, shape: tuple[int, ...] = (64, 64)) -> TensorProto:
    return numpy_helper.from_array((np.arange(np.prod(shape)) % 7).astype(dtype).reshape(shape), name)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def matmul(*kept: TensorProto, inputs: Kinds = X, **versions: Any) -> onnx.ModelProto:
    return model([node("MatMul", "x w", "y")], inputs, OPEN, *kept, **versions)


def of_branches(condition: list[TensorProto]) -> onnx.ModelProto:
    """A large tensor in each branch: an initializer in one, a constant in the other."""
    then = helper.make_graph(
        [node("MatMul", "x a", "t")], "then", [], tensors({"t": OPEN["y"]}), [weights("a")]
    )
    other = helper.make_graph(
        [node("Constant", "", "b", value=weights("b")), node("MatMul", "x b", "e")],
        "else",
        [],
        tensors({"e": OPEN["y"]}),
    )
    inputs = X if condition else {**X, "c": (BOOL, [])}
    return model([node("If", "c", "y", then_branch=then, else_branch=other)], inputs, OPEN, *condition)


def of_function() -> onnx.ModelProto:
    body = [node("Constant", "", "w", value=weights()), node("MatMul", "a w", "b")]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return model(
        [node("F", "x", "y", domain="own")],
        X,
        OPEN,
        opsets=[helper.make_opsetid("own", 1)],
        functions=[function],
    )


def folded(dtype: type, name: str) -> onnx.ModelProto:
    """ONNX Runtime computes with the weights at once; the length of the name shifts them in the file."""
    made = model(
        [
            node("Transpose", "w", "turned", perm=[1, 0]),
            node("Cast", "turned", "cast", to=FLOAT),
            node("MatMul", "x cast", "y"),
        ],
        X,
        OPEN,
        weights(dtype=dtype, shape=(128, 64)),
    )
    made.graph.name = name
    return made


MODELS = {
    "small": times(2.0),
    "initializer": matmul(weights()),
    "constant in an attribute": model(
        [node("Constant", "", "w", value=weights()), node("MatMul", "x w", "y")], X, OPEN
    ),
    "branches": of_branches([]),
    "branches of a constant": of_branches([helper.make_tensor("c", BOOL, [], [True])]),
    "IR 3": matmul(weights(), inputs={**X, "w": (FLOAT, [64, 64])}, ir_version=3, opset=8),
    "input with a default": matmul(weights(), inputs={**X, "w": (FLOAT, [64, 64])}),
    "float_data": matmul(helper.make_tensor("w", FLOAT, [64, 64], [1.0] * 4096)),
    "function": of_function(),
    "fp16": model(
        [node("MatMul", "x w", "y")],
        {"x": (TensorProto.FLOAT16, ["N", 64])},
        {"y": (TensorProto.FLOAT16, ["N", "M"])},
        weights(dtype=np.float16),
    ),
    "strings": model(
        [node("Gather", "w x", "y")],
        {"x": (INT64, ["N"])},
        {"y": (STRING, ["M"])},
        helper.make_tensor("w", STRING, [2000], [b"abc"] * 2000),
    ),
    "int4": model(
        [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "y")],
        X,
        OPEN,
        helper.make_tensor("w", TensorProto.INT4, [64, 256], bytes(64 * 128), raw=True),
        numpy_helper.from_array(np.float32(0.1), "s"),
        opset=21,
        ir_version=10,
    ),
    "bf16 inside": model(
        [node("Cast", "w", "f", to=FLOAT), node("MatMul", "x f", "y")],
        X,
        OPEN,
        helper.make_tensor("w", TensorProto.BFLOAT16, [64, 64], bytes(8192), raw=True),
    ),
    "scalar": model([node("ReduceSum", "x", "y", keepdims=0)], X, {"y": (FLOAT, [])}),
    "scalar input": model(
        [node("Mul", "x s", "y")], {**X, "s": (FLOAT, [])}, {"y": (FLOAT, ["N", "M"])}
    ),
    "no declared rank": model([node("Relu", "x", "y")], X, {"y": (FLOAT, None)}),
    "unknown rank": model([node("Reshape", "x s", "y")], {**X, "s": (INT64, ["R"])}, {"y": (FLOAT, None)}),
    "weights as an output": model([node("Identity", "x", "y")], X, {**OPEN, "w": (FLOAT, ["A", "B"])}, weights()),
    "shape out of weights": model(
        [node("Unique", "w", "u"), node("Mul", "u x", "y")],
        {"x": (FLOAT, [1])},
        {"y": (FLOAT, ["A"])},
        weights(),
    ),
    "same weights twice": model(
        [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")], X, OPEN, weights("w"), weights("v")
    ),
    "one dimension is merged": model([node("Relu", "x", "y")], {"x": (FLOAT, ["N", 3])}, {"y": (FLOAT, ["N", "M"])}),
    "an operator that ONNX does not know": model(
        [node("SimplifiedLayerNormalization", "x w", "y", axis=-1, epsilon=1e-5)],
        X,
        OPEN,
        weights(shape=(64,)),
        opset=14,
    ),
    **{
        f"folded {dtype.__name__} shifted by {len(name)}": folded(dtype, name)
        for dtype in (np.float16, np.float64, np.int8)
        for name in ("g", "gg", "ggg", "gggg")
    },
}  # fmt: skip


def written(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def whole(file: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and outputs of a session on the whole file, as Triton opens it."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return tuple(map(port, session.get_inputs())), tuple(map(port, session.get_outputs()))


def port(found: Any) -> Port:
    sizes = (size if isinstance(size, int) else -1 for size in found.shape)
    return Port(found.name, found.type, tuple(sizes))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_its_weights_has_the_inputs_and_outputs_of_the_whole(
    tmp_path: Path, name: str
) -> None:
    file = written(tmp_path, MODELS[name])
    found = signature_of(file, ANY)
    assert (found.inputs, found.outputs) == whole(file)
    assert found.runtime == onnxruntime.__version__


def test_external_data_is_found_and_may_be_large(tmp_path: Path) -> None:
    content, data = external("weights/w.bin")
    write(tmp_path, {"model.onnx": content, "weights/w.bin": data})
    found = signature_of(tmp_path / "model.onnx", ANY)
    assert (found.inputs, found.outputs) == whole(tmp_path / "model.onnx")


# Weights are not read


def field(number: int, length: int) -> bytes:
    """The beginning of a field of so many bytes."""
    head = bytes([number << 3 | 2])
    while length >= 0x80:
        head, length = head + bytes([length & 0x7F | 0x80]), length >> 7
    return head + bytes([length])


def with_a_hole(folder: Path, columns: int) -> Path:
    """``matmul`` with weights of ``[64, columns]``, which are a hole in the file."""
    made = matmul(weights())
    tensor = TensorProto(dims=[64, columns], data_type=FLOAT, name="w")
    graph = onnx.GraphProto()
    graph.CopyFrom(made.graph)
    graph.ClearField("initializer")
    made.ClearField("graph")
    hole = 64 * columns * 4
    parts = [tensor.SerializeToString() + field(9, hole)]
    parts.insert(0, graph.SerializeToString() + field(5, len(parts[0]) + hole))
    parts.insert(0, made.SerializeToString() + field(7, len(parts[0]) + len(parts[1]) + hole))
    file = written(folder, b"".join(parts))
    with file.open("r+b") as opened:
        opened.truncate(sum(map(len, parts)) + hole)
    return file


def test_weights_larger_than_the_limit_of_memory_are_mapped_and_not_read(tmp_path: Path) -> None:
    file = with_a_hole(tmp_path, 5 << 20)
    assert file.stat().st_size > 5 << 28
    limits = Limits(memory_bytes=640 << 20)
    found = signature_of(file, limits)
    assert found.outputs == (Port("y", "tensor(float)", (-1, 5 << 20)),)
    with ModelProcess(
        file, limits, outline=linked_outline(file), mapped_bytes=3 * file.stat().st_size
    ) as process:
        status = Path("/proc", str(process.pid), "status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 256 << 10


def test_tensors_that_overlap_give_a_model_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, data = external("weights.bin")
    twice = onnx.ModelProto.FromString(content)
    for number in range(50):
        twice.graph.initializer.add().CopyFrom(twice.graph.initializer[0])
        twice.graph.initializer[-1].name = f"w{number}"
    write(tmp_path, {"model.onnx": twice.SerializeToString(), "weights.bin": data.ljust(1 << 20)})
    given = saying(monkeypatch, {"runtime": "1", "inputs": [], "outputs": []})
    signature_of(tmp_path / "model.onnx", ANY)
    assert 2 << 20 <= given["mapped_bytes"] < 4 << 20


# The process is not believed


def saying(monkeypatch: pytest.MonkeyPatch, said: Any) -> dict[str, Any]:
    """Let the process say that of every model; return what it was started with."""
    given: dict[str, Any] = {}

    class Process:
        signature = said

        def __init__(self, *_: object, **options: Any) -> None:
            given.update(options)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(reference, "ModelProcess", Process)
    return given


Y = {"name": "y", "type": "tensor(float)", "shape": [1]}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"runtime": "1", "inputs": []},
        {"runtime": "1", "inputs": 1, "outputs": []},
        {"runtime": "1", "inputs": [], "outputs": ["y"]},
        *(
            {"runtime": "1", "inputs": [], "outputs": [Y | change]}
            for change in (
                {"name": 1},
                {"type": None},
                {"shape": 5},
                {"shape": [-2]},
                {"shape": [1.5]},
                {"shape": [True]},
                {"shape": [2**63]},
                {"shape": ["N"]},
            )
        ),
    ],
)
def test_nonsense_of_the_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    saying(monkeypatch, said)
    with pytest.raises(ModelFailed, match="its process answers nonsense"):
        signature_of(written(tmp_path, times(2.0)), ANY)


# What is refused


def typed(element: int, opset: int = 21) -> onnx.ModelProto:
    kind = {"x": (element, ["N"])}
    return model([node("Identity", "x", "y")], kind, {"y": kind["x"]}, opset=opset, ir_version=10)


def of_type(kind: onnx.TypeProto) -> onnx.ModelProto:
    made = model([node("Identity", "x", "y")], X, OPEN)
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.CopyFrom(kind)
    return made


def without_shape() -> onnx.ModelProto:
    made = times(2.0)
    made.graph.input[0].type.tensor_type.ClearField("shape")
    return made


def custom(domain: str) -> onnx.ModelProto:
    made = unknown_operator()
    made.graph.node[0].domain = made.opset_import[-1].domain = domain
    return made


FLOATS = helper.make_tensor_type_proto(FLOAT, ["N"])
MAPS = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, FLOATS))
REFUSED = [
    (typed(TensorProto.BFLOAT16), "has type BFLOAT16", "Put a Cast from and to FLOAT or FLOAT16"),
    (typed(TensorProto.FLOAT8E4M3FN), "has type FLOAT8E4M3FN", "weights and all between may stay FLOAT8E4M3FN"),
    (typed(TensorProto.INT4), "has type INT4", "Put a Cast from and to INT8"),
    (typed(TensorProto.COMPLEX64), "has type COMPLEX64", "the real and the imaginary part as two tensors"),
    (of_type(helper.make_optional_type_proto(FLOATS)), "is of an optional type", "Make it a plain tensor"),
    (of_type(helper.make_sequence_type_proto(FLOATS)), "is a sequence", "extract_model"),
    (of_type(MAPS), "is a sequence of maps", "zipmap off"),
    (of_type(helper.make_map_type_proto(INT64, FLOATS)), "is a map", "in front of the model"),
    (of_type(helper.make_sparse_tensor_type_proto(FLOAT, ["N"])), "is a sparse tensor", "dense"),
    (custom("ai.onnx.contrib"), "Nonsense", "has no custom operators"),
    (times(2.0, ir_version=99), "Unsupported model IR version", "lower opset and IR version"),
    (times(2.0, opset=99), "Opset 99", "lower opset and IR version"),
    (without_shape(), "'x': it has no shape", "dimensions may be open"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "why", "way_out"), REFUSED, ids=[why for _, why, _ in REFUSED])
def test_what_triton_cant_serve_is_refused_with_the_way_out(
    tmp_path: Path, made: onnx.ModelProto, why: str, way_out: str
) -> None:
    with pytest.raises(ArtifactRejected, match=why) as refused:
        inspect(written(tmp_path, made), max_opset=999, max_ir_version=999)
    assert way_out in refused.value.hint


def test_an_output_of_a_type_that_only_onnx_runtime_knows_is_refused(tmp_path: Path) -> None:
    made = model([node("Cast", "x", "y", to=TensorProto.BFLOAT16)], X, OPEN)
    made.graph.output[0].ClearField("type")
    with pytest.raises(ArtifactRejected, match=r"'y': it has type tensor\(bfloat16\)") as refused:
        inspect(written(tmp_path, made), max_opset=999, max_ir_version=999)
    assert "Put a Cast" in refused.value.hint


def test_a_sequence_of_which_the_file_says_nothing_is_refused_as_one(tmp_path: Path) -> None:
    made = model([node("SplitToSequence", "x", "y", axis=0)], X, OPEN)
    made.graph.output[0].ClearField("type")
    with pytest.raises(ArtifactRejected, match="'y': it is a sequence") as refused:
        inspect(written(tmp_path, made), max_opset=999, max_ir_version=999)
    assert "extract_model" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("an operator that ONNX does not know", ["y FP32[-1, 64]"]),
        ("one dimension is merged", ["y FP32[-1, 3]"]),
        ("weights as an output", ["y FP32[-1, 64]", "w FP32[64, 64]"]),
        ("unknown rank", ["y FP32[]"]),
    ],
)
def test_what_onnx_runtime_opens_is_taken_with_its_shapes(
    tmp_path: Path, name: str, outputs: list[str]
) -> None:
    schema = inspect(written(tmp_path, MODELS[name]), max_opset=99, max_ir_version=99)
    assert [str(tensor) for tensor in schema.outputs] == outputs


def test_the_checker_explains_a_refusal(tmp_path: Path) -> None:
    made = matmul(weights())
    made.graph.node[0].output[0] = "x"
    with pytest.raises(ArtifactRejected, match=r"can't open the model: .* ONNX's checker says: ") as refused:
        inspect(written(tmp_path, made), max_opset=99, max_ir_version=99)
    assert "onnxruntime.InferenceSession" in refused.value.hint


# The fake


@pytest.mark.parametrize("sign", [signature_of, declared])
@pytest.mark.parametrize(
    ("made", "inputs", "outputs"),
    [
        (times(2.0), [Port("x", "tensor(float)", (-1, 2))], [Port("y", "tensor(float)", (-1, 2))]),
        (MODELS["scalar"], [Port("x", "tensor(float)", (-1, 64))], [Port("y", "tensor(float)", ())]),
        (MODELS["strings"], [Port("x", "tensor(int64)", (-1,))], [Port("y", "tensor(string)", (-1,))]),
        (
            matmul(weights(), inputs={**X, "w": (FLOAT, [64, 64])}),
            [Port("x", "tensor(float)", (-1, 64))],
            None,
        ),
    ],
)
def test_the_fake_says_the_same_of_simple_models(
    tmp_path: Path, sign: Signer, made: onnx.ModelProto, inputs: list[Port], outputs: list[Port] | None
) -> None:
    found = sign(written(tmp_path, made), ANY)
    assert list(found.inputs) == inputs
    assert outputs is None or list(found.outputs) == outputs
