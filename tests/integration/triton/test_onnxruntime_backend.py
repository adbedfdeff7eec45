"""The Python-based ``onnxruntime`` backend under a real Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc_client
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

Array = NDArray[Any]
Tensor = tuple[str, int, Sequence[int | str | None] | None]
HEADER = 'backend: "onnxruntime"\ninstance_group [{kind: KIND_CPU count: 1}]\n'
WAIT = "dynamic_batching { max_queue_delay_microseconds: 500000 }\n"


def onnx_model(
    nodes: list[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def identity(*tensors: Tensor) -> onnx.ModelProto:
    """Outputs each input ``x`` as ``x_out``."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in tensors]
    return onnx_model(nodes, tensors, [(f"{name}_out", dtype, shape) for name, dtype, shape in tensors])


def add_model(
    repository: Path,
    name: str,
    model: onnx.ModelProto | bytes | None,
    config: str = "",
    file_name: str = "model.onnx",
) -> None:
    """Puts a model into the repository; None leaves the version directory empty."""
    path = repository / name / "1" / file_name
    path.parent.mkdir(parents=True)
    if model is not None:
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    (repository / name / "config.pbtxt").write_text(HEADER + config)


Client: TypeAlias = grpc_client.InferenceServerClient
Connect = Callable[..., Client]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


@pytest.fixture
def connect(triton_server: Callable[..., Any], repository: Path) -> Iterator[Connect]:
    """Starts Triton on the repository with extra arguments and returns a client."""
    clients: list[Client] = []

    def start(*arguments: str) -> Client:
        server = triton_server(repository, *arguments)
        clients.append(Client(server.grpc_url))
        return clients[0]

    yield start
    for client in clients:
        client.close()


def infer(
    client: Client, name: str, outputs: Sequence[str] = (), /, **feed: Array
) -> grpc_client.InferResult:
    inputs = []
    for key, array in feed.items():
        tensor = grpc_client.InferInput(key, array.shape, np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    requested = [grpc_client.InferRequestedOutput(output) for output in outputs]
    return client.infer(name, inputs, outputs=requested or None, client_timeout=30)


def loaded_config(client: Client, name: str) -> dict[str, Any]:
    client.load_model(name)
    config: dict[str, Any] = client.get_model_config(name, as_json=True)["config"]
    return config


def test_a_configuration_is_completed_from_the_file(repository: Path, connect: Connect) -> None:
    rows: Tensor = ("x", TensorProto.FLOAT, ["N", 3])
    words: Tensor = ("word", TensorProto.STRING, ["N"])
    add_model(repository, "rows", identity(rows, words))
    add_model(repository, "fixed", identity(("x", TensorProto.INT64, [1, None])))
    scalar = identity(("x", TensorProto.DOUBLE, []))
    scalar.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axes"))
    scalar.graph.node.append(helper.make_node("Unsqueeze", ["x", "axes"], ["one_more"]))
    scalar.graph.output.append(helper.make_tensor_value_info("one_more", TensorProto.DOUBLE, [1]))
    add_model(repository, "scalar", scalar)
    add_model(repository, "sized", identity(rows), "max_batch_size: 16\n")
    add_model(
        repository,
        "half",
        identity(rows),
        "max_batch_size: 2\ninput [{name: 'x' data_type: TYPE_FP32 dims: [3]}]\n",
    )
    client = connect()

    config = loaded_config(client, "rows")
    assert (config["max_batch_size"], "dynamic_batching" in config) == (4, True)
    (x, word), outputs = config["input"], config["output"]
    assert (x["name"], x["data_type"], x["dims"]) == ("x", "TYPE_FP32", ["3"])
    assert (word["data_type"], word["dims"], word["reshape"]) == ("TYPE_STRING", ["1"], {})
    assert [output["name"] for output in outputs] == ["x_out", "word_out"]
    feed = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "word": np.array([["é".encode()], [b""]], dtype=np.object_),
    }
    result = infer(client, "rows", **feed)
    for name, array in feed.items():
        assert result.as_numpy(f"{name}_out").tolist() == array.tolist()

    config = loaded_config(client, "fixed")
    assert "max_batch_size" not in config
    assert "dynamic_batching" not in config
    assert config["input"][0]["dims"] == ["1", "-1"]
    config = loaded_config(client, "scalar")
    assert config["input"][0]["dims"] == ["1"]
    assert "reshape" not in config["input"][0]
    result = infer(client, "scalar", x=np.array([2.5]))
    assert result.as_numpy("x_out").tolist() == [2.5]
    assert result.as_numpy("one_more").tolist() == [2.5]  # [[2.5]] had the model got [2.5]
    assert loaded_config(client, "sized")["max_batch_size"] == 16
    assert loaded_config(client, "half")["output"][0]["dims"] == ["3"]


def test_every_type_and_an_empty_tensor_round_trip(repository: Path, connect: Connect) -> None:
    arrays = {str(dtype): np.array([0, 1, 100], dtype=dtype) for dtype in map(np.dtype, "?bhilqBHIQefd")}
    arrays["object"] = np.array([b"", "日本".encode(), b"x" * 70_000], dtype=np.object_)
    tensors: list[Tensor] = [
        (name, helper.np_dtype_to_tensor_dtype(array.dtype), [None]) for name, array in arrays.items()
    ]
    add_model(repository, "types", identity(*tensors), "max_batch_size: 0\n")
    add_model(repository, "copy", identity(("x", TensorProto.STRING, ["N", "M"])), WAIT)
    client = connect()
    client.load_model("types")
    client.load_model("copy")

    shaped = {name: array.reshape(3, 1) for name, array in arrays.items()}
    result = infer(client, "types", **shaped)

    for name, array in shaped.items():
        assert result.as_numpy(f"{name}_out").tolist() == array.tolist(), name
    empty = infer(client, "copy", x=np.empty((1, 0), dtype=np.object_)).as_numpy("x_out")
    assert empty.shape == (1, 0)

    def copy(word: bytes) -> Any:
        return infer(client, "copy", x=np.array([[word]], dtype=np.object_)).as_numpy("x_out")

    with ThreadPoolExecutor(2) as pool:  # they come in one batch, and only the bad one fails
        good, bad = pool.submit(copy, b"good"), pool.submit(copy, b"\xff")
    assert good.result().tolist() == [[b"good"]]
    with pytest.raises(InferenceServerException, match=r"'x'.*not UTF-8"):
        bad.result()
    wait_for_counts(client, "copy", execution_count="2")


def wait_for_counts(client: grpc_client.InferenceServerClient, model: str, **counts: str) -> None:
    """Wait until Triton's statistics of a model show the counts: a backend reports them after it has answered."""

    def shown() -> bool:
        statistics = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
        return {name: statistics.get(name, "0") for name in counts} == counts

    eventually(shown, f"statistics of {model}: {counts}", limit_s=10)


def io(dims: str, name: str = "x", data_type: str = "TYPE_FP32") -> str:
    output = "output [{name: 'x_out' data_type: TYPE_FP32 dims: [-1, 3]}]\n"
    return f"input [{{name: '{name}' data_type: {data_type} dims: {dims}}}]\n{output}"


def test_a_model_that_cannot_be_served_says_why(repository: Path, connect: Connect, tmp_path: Path) -> None:
    rows = identity(("x", TensorProto.FLOAT, ["N", 3]))
    external = onnx_model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 400])],
        [("y", TensorProto.FLOAT, ["N", 400])],
        [onnx.numpy_helper.from_array(np.ones(400, np.float32), "w")],
    )
    onnx.save(
        external,
        tmp_path / "e.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=1,
    )
    zipmap = onnx_model(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["N"])],
        [],
    )
    zipmap.graph.output.append(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["N"]))
    cases: dict[str, tuple[onnx.ModelProto | bytes | None, str, list[str]]] = {
        "missing": (None, "", ["missing/1/model.onnx", "not found"]),
        "junk": (b"junk", "", ["junk/1/model.onnx", "INVALID_PROTOBUF"]),
        "truncated": (rows.SerializeToString()[:60], "", ["cannot open"]),
        "external": (external.SerializeToString(), "", ["w.bin", "does not exist"]),
        "sequence": (zipmap, "", ["output 'y'", "seq(tensor(float))"]),
        "bf16": (identity(("x", TensorProto.BFLOAT16, ["N"])), "", ["bfloat16", "FP16 or FP32"]),
        "name": (rows, io("[-1, 3]", name="z"), ["input 'z'", "the file has ['x']"]),
        "type": (
            rows,
            io("[-1, 3]", data_type="TYPE_INT64"),
            ["input 'x'", "the file has TYPE_FP32", "says TYPE_INT64"],
        ),
        "dims": (rows, io("[-1, 4]"), ["input 'x'", "has [-1, 3]", "says [-1, 4]"]),
        "batch": (
            identity(("x", TensorProto.FLOAT, [1, 3])),
            "max_batch_size: 2\n",
            ["max_batch_size is 2", "fixed"],
        ),
        "parameter": (
            rows,
            "parameters {key: 'intra_op_thread_count' value {string_value: 'many'}}\n",
            ["intra_op_thread_count", "'many'"],
        ),
    }
    for name, (model, config, _) in cases.items():
        add_model(repository, name, model, config)
    add_model(repository, "good", rows)
    client = connect()
    client.load_model("good")

    for name, (_, _, parts) in cases.items():
        with pytest.raises(InferenceServerException) as caught:
            client.load_model(name)
        for part in [*parts, f"unable to load model '{name}'"]:
            assert part in str(caught.value), name
    assert client.is_model_ready("good")


def test_a_file_of_another_name_and_inputs_with_defaults(repository: Path, connect: Connect) -> None:
    scaled = onnx_model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", TensorProto.FLOAT, [None]), ("factor", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [None])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [10.0])],
    )
    config = """
        default_model_filename: "net.onnx"
        input [
          {name: "x" data_type: TYPE_FP32 dims: [-1]},
          {name: "factor" data_type: TYPE_FP32 dims: [1] optional: true}
        ]
        output [{name: "y" data_type: TYPE_FP32 dims: [-1]}]
    """
    add_model(repository, "scaled", scaled, config, file_name="net.onnx")
    add_model(
        repository,
        "completed",
        scaled,
        'default_model_filename: "deep/net.onnx"\n',
        file_name="deep/net.onnx",
    )
    client = connect()
    client.load_model("scaled")
    x = np.array([1, 2], np.float32)

    assert infer(client, "scaled", x=x).as_numpy("y").tolist() == [10, 20]
    factor = np.array([3], np.float32)
    assert infer(client, "scaled", x=x, factor=factor).as_numpy("y").tolist() == [3, 6]
    assert [i["name"] for i in loaded_config(client, "completed")["input"]] == ["x"]


def test_requests_are_joined_and_fail_one_by_one(repository: Path, connect: Connect) -> None:
    # Each row of `rows` says how many rows its run had; an index beyond the table fails the run.
    table = onnx.numpy_helper.from_array(np.array([10, 11, 12], np.int64), "table")
    one = onnx.numpy_helper.from_array(np.array([0], np.int64), "first")
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["picked"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["size"]),
        helper.make_node("Expand", ["size", "shape"], ["rows"]),
    ]
    model = onnx_model(
        nodes,
        [("x", TensorProto.INT64, ["N", 1])],
        [("picked", TensorProto.INT64, ["N", 1]), ("rows", TensorProto.INT64, ["N", 1])],
        [table, one],
    )
    add_model(repository, "batch", model, "max_batch_size: 4\n" + WAIT)
    client = connect()
    client.load_model("batch")

    def ask(*indices: int, outputs: Sequence[str] = ()) -> Any:
        try:
            return infer(client, "batch", outputs, x=np.array([[i] for i in indices], np.int64))
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda indices: ask(*indices), [(0,), (1, 2), (2,)]))
    assert [r.as_numpy("picked").ravel().tolist() for r in results] == [[10], [11, 12], [12]]
    assert [r.as_numpy("rows").ravel().tolist() for r in results] == [[4], [4, 4], [4]]
    wait_for_counts(client, "batch", inference_count="4", execution_count="1")

    with ThreadPoolExecutor(3) as pool:
        good, bad, good_too = pool.map(lambda indices: ask(*indices), [(0,), (1, 7), (2,)])
    assert good.as_numpy("picked").tolist() == [[10]]
    assert "indices element out of data bounds" in bad
    assert good_too.as_numpy("picked").tolist() == [[12]]
    wait_for_counts(client, "batch", execution_count="2")  # the three did come in one batch

    only = ask(1, 1, 1, 1, outputs=["rows"]).get_response()
    assert [output.name for output in only.outputs] == ["rows"]


def test_the_log_says_what_was_completed(repository: Path, triton_server: Callable[..., Any]) -> None:
    add_model(repository, "told", identity(("x", TensorProto.FLOAT, ["N", 3])))
    server = triton_server(repository)
    with Client(server.grpc_url) as client:
        client.load_model("told")
    log = Path(server.log_path).read_text()
    assert "told: completed max_batch_size: 4" in log
    assert "told_0_0: '" in log
    assert "on CPUExecutionProvider" in log
