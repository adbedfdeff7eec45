"""The rules of the Python-based ``onnxruntime`` backend, without Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.stand_in import stand_in

Array = NDArray[Any]
backend, configuration = stand_in()


def signature(
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    initializers: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """A signature of FP32 tensors."""

    def infos(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return {n: configuration.TensorInfo("TYPE_FP32", tuple(s)) for n, s in shapes.items()}

    return configuration.Signature(infos(inputs), infos(outputs), infos(initializers or {}))


def tensor(name: str, dims: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_FP32", "dims": list(dims), **more}


def config(
    inputs: Sequence[Any], outputs: Sequence[Any], max_batch_size: int = 0, **more: Any
) -> dict[str, Any]:
    io = {"input": list(inputs), "output": list(outputs)}
    return {"name": "m", "max_batch_size": max_batch_size, **io, **more}


ROWS = signature({"x": (-1, 3)}, {"y": (-1, 2)})


class TestSignature:
    def test_reads_names_types_open_dimensions_and_defaults(self, tmp_path: Path) -> None:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("Mul", ["x", "w"], ["y"]),
                helper.make_node("Identity", ["s"], ["t"]),
            ],
            "graph",
            [
                value("x", TensorProto.DOUBLE, ["N", None, 3]),
                value("s", TensorProto.STRING, []),
                value("w", TensorProto.DOUBLE, [1]),
            ],
            [value("y", TensorProto.DOUBLE, ["N", None, 3]), value("t", TensorProto.STRING, [])],
            [helper.make_tensor("w", TensorProto.DOUBLE, [1], [2.0])],
        )
        opset = [helper.make_opsetid("", 17)]
        path = str(tmp_path / "model.onnx")
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)

        session = backend.open_session(path, backend.session_options({}), ["CPUExecutionProvider"])
        read = backend.read_signature(session)

        x = configuration.TensorInfo("TYPE_FP64", (-1, -1, 3))
        scalar = configuration.TensorInfo("TYPE_STRING", ())
        assert read.inputs == {"x": x, "s": scalar}
        assert read.outputs == {"y": x, "t": scalar}
        assert read.initializers == {"w": configuration.TensorInfo("TYPE_FP64", (1,))}

    @pytest.mark.parametrize(
        ("shapes", "batching"),
        [
            ([(-1, 3), (-1,)], True),
            ([(1, 3), (-1,)], False),
            ([(-1,), (2,)], False),
            ([(-1,), ()], False),
        ],
    )
    def test_batching_needs_every_first_dimension_open(
        self, shapes: list[tuple[int, ...]], batching: bool
    ) -> None:
        assert signature({"x": shapes[0]}, {"y": shapes[1]}).supports_batching is batching


class TestCompleteConfig:
    def test_an_empty_configuration_gets_everything(self) -> None:
        file = signature({"x": (-1, 3), "z": (-1,)}, {"y": (-1, -1)}, {"w": (1,)})
        completed = backend.complete_config({"name": "m", "max_batch_size": 0}, file, 4)
        assert completed == config(
            [tensor("x", [3]), tensor("z", [1], reshape={"shape": []})],
            [tensor("y", [-1])],
            4,
            dynamic_batching={},
        )

    def test_a_fixed_first_dimension_means_no_batching(self) -> None:
        file = signature({"x": (1, 3), "z": ()}, {"y": (-1,)})
        completed = backend.complete_config({"name": "m", "max_batch_size": 0}, file, 4)
        assert completed == config([tensor("x", [1, 3]), tensor("z", [1])], [tensor("y", [-1])])

    def test_what_is_configured_stays(self) -> None:
        given = config([tensor("x", [7])], [], 8, dynamic_batching={"preferred_batch_size": [8]})
        assert backend.complete_config(given, ROWS, 4) == {**given, "output": [tensor("y", [2])]}

    @pytest.mark.parametrize(
        ("given", "default", "size", "dynamic"),
        [
            ({"max_batch_size": 1}, 4, 1, False),
            ({}, 4, 4, True),
            ({}, 1, 1, False),
            ({}, 0, 0, False),
            ({}, -1, 0, False),
            ({"sequence_batching": {}}, 4, 4, False),
        ],
    )
    def test_dynamic_batching_above_one_unless_a_scheduler_is_set(
        self, given: dict[str, Any], default: int, size: int, dynamic: bool
    ) -> None:
        completed = backend.complete_config(given, ROWS, default)
        assert completed["max_batch_size"] == size
        assert ("dynamic_batching" in completed) is dynamic

    def test_a_batch_size_for_a_file_without_batching_is_refused(self) -> None:
        with pytest.raises(backend.ModelError, match=r"max_batch_size is 2.*fixed"):
            backend.complete_config({"max_batch_size": 2}, signature({"x": (1,)}, {"y": (-1,)}), 4)


class TestValidateConfig:
    @pytest.mark.parametrize(
        ("file", "given"),
        [
            (ROWS, config([tensor("x", [3])], [tensor("y", [2])], 4)),
            (ROWS, config([tensor("x", [5, 3])], [tensor("y", [-1, 2])])),
            (ROWS, config([tensor("x", [1, 3], reshape={"shape": [3]})], [tensor("y", [2])], 1)),
            (
                signature({"x": ()}, {"y": (), "unused": (2,)}),
                config([tensor("x", [1])], [tensor("y", [1])]),
            ),
            (
                signature({"x": (-1,)}, {"y": (-1,)}),
                config([tensor("x", [1], reshape={})], [tensor("y", [1], reshape={})], 2),
            ),
            (
                signature({"x": (2,)}, {"y": (2,)}, {"w": (1,)}),
                config([tensor("x", [2]), tensor("w", [1], optional=True)], [tensor("y", [2])]),
            ),
        ],
    )
    def test_accepts(self, file: Any, given: dict[str, Any]) -> None:
        backend.validate_config(given, file)

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            (config([tensor("z", [-1, 3])], []), r"names input 'z', but the file has \['x'\]"),
            (config([], []), "input 'x' of the file is required"),
            (
                config([{**tensor("x", [-1, 3]), "data_type": "TYPE_INT64"}], []),
                "input 'x': the file has TYPE_FP32, the configuration says TYPE_INT64",
            ),
            (config([tensor("x", [-1, 4])], []), r"has \[-1, 3\], .* says \[-1, 4\]"),
            (config([tensor("x", [3])], []), r"has \[-1, 3\], .* says \[3\]"),
            (config([tensor("x", [-1, 3])], [], 2), r"says \[-1, -1, 3\], the first because"),
            (config([tensor("x", [-1, 3])], [tensor("o", [2])]), r"names output 'o'.*\['y'\]"),
            (config([tensor("x", [9, 3])], [tensor("y", [9, 2])]), r"output 'y'.* says \[9, 2\]"),
            (config([tensor("x", [-1, 3], optional=True)], []), "input 'x': 'optional' must be"),
            (config([tensor("x", [-1, 3], allow_ragged_batch=True)], []), "'x': allow_ragged"),
            (config([], [], batch_input=[{"kind": 1}]), "not supported.*: batch_input"),
            (config([], [], sequence_batching={"state": []}), "not supported.*: sequence_batching"),
        ],
    )
    def test_refuses(self, given: dict[str, Any], text: str) -> None:
        with pytest.raises(backend.ModelError, match=text):
            backend.validate_config(given, ROWS)

    def test_refuses_a_batch_size_that_the_file_does_not_have(self) -> None:
        given = config([tensor("x", [3])], [tensor("y", [2])], 4)
        with pytest.raises(backend.ModelError, match=r"'x': the file has \[1, 3\]"):
            backend.validate_config(given, signature({"x": (1, 3)}, {"y": (-1, 2)}))

    def test_refuses_optional_inputs_with_batching(self) -> None:
        file = signature({"x": (-1, 3)}, {"y": (-1, 2)}, {"w": (-1,)})
        w = tensor("w", [], optional=True)
        given = config([tensor("x", [3]), w], [tensor("y", [2])], 4)
        with pytest.raises(backend.ModelError, match="'w' is optional: max_batch_size must be 0"):
            backend.validate_config(given, file)

    def test_refuses_a_default_that_is_not_marked_optional(self) -> None:
        file = signature({"x": (2,)}, {"y": (2,)}, {"w": (1,)})
        given = config([tensor("x", [2]), tensor("w", [1])], [tensor("y", [2])])
        with pytest.raises(backend.ModelError, match="input 'w': 'optional' must be"):
            backend.validate_config(given, file)


class TestSession:
    def test_parameters_reach_the_session(self) -> None:
        values = {
            "intra_op_thread_count": "3",
            "inter_op_thread_count": "2",
            "execution_mode": "1",
            "enable_mem_arena": "FALSE",
            "enable_mem_pattern": "0",
            "somebody_elses": "x",
        }
        parameters = {key: {"string_value": value} for key, value in values.items()}
        graph = {"graph": {"level": -1}}
        options = backend.session_options({"parameters": parameters, "optimization": graph})
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
        assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
        assert options.execution_mode.name == "ORT_PARALLEL"
        assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
        assert backend.session_options({}).graph_optimization_level.name == "ORT_ENABLE_ALL"

    @pytest.mark.parametrize(
        ("key", "value"),
        [("intra_op_thread_count", "many"), ("execution_mode", "2"), ("enable_mem_arena", "")],
    )
    def test_an_invalid_parameter_is_named(self, key: str, value: str) -> None:
        parameters = {key: {"string_value": value}}
        with pytest.raises(backend.ModelError, match=f"'{key}' has the invalid value '{value}'"):
            backend.session_options({"parameters": parameters})

    def test_providers(self) -> None:
        cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
        openvino = {"cpu_execution_accelerator": [{"name": "openvino"}]}
        accelerated = {"optimization": {"execution_accelerators": openvino}}
        assert backend.choose_providers({}, "CPU", "0", [cuda, cpu]) == [cpu]
        expected = [(cuda, {"device_id": "1"}), cpu]
        assert backend.choose_providers(accelerated, "GPU", "1", [cuda, cpu]) == expected
        with pytest.raises(backend.ModelError, match=r"KIND_GPU.*only \['CPU.*set KIND_CPU"):
            backend.choose_providers({}, "GPU", "0", [cpu])
        with pytest.raises(backend.ModelError, match="'openvino'"):
            backend.choose_providers(accelerated, "CPU", "0", [cpu])

    def test_a_file_in_a_directory_and_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "net/model.onnx").touch()
        found = backend.find_model_file(str(tmp_path), "net")
        assert found == str(tmp_path / "net/model.onnx")
        with pytest.raises(backend.ModelError, match=r"other\.onnx' not found"):
            backend.find_model_file(str(tmp_path), "other.onnx")


class Recorder:
    """Doubles ``x``; fails if it holds a 13; remembers the size of each run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        self.runs.append(len(feed["x"]))
        if 13 in feed["x"]:
            raise RuntimeError("thirteen")
        return [{"y": feed["x"] * 2, "z": feed["x"], "sum": feed["x"].sum(0)}[n] for n in names]


def job(*values: int, outputs: Sequence[str] = ("y",), width: int = 1, dtype: str = "i8") -> Any:
    return backend.Job({"x": np.array([[v] * width for v in values], dtype)}, list(outputs))


def run(*jobs: Any, batching: bool = True) -> tuple[list[Any], list[int]]:
    recorder = Recorder()
    results = backend.run_jobs(dict(enumerate(jobs)), recorder, batching)
    return [results[index] for index in range(len(jobs))], recorder.runs


class TestRunJobs:
    def test_joins_into_one_run_and_splits_by_batch_size(self) -> None:
        results, runs = run(job(1), job(2, 3), job(4))
        assert runs == [4]
        assert [r["y"].ravel().tolist() for r in results] == [[2], [4, 6], [8]]

    def test_each_gets_the_outputs_that_it_asked_for(self) -> None:
        results, runs = run(job(1, outputs=["z"]), job(2, outputs=["y", "z"]))
        assert runs == [2]
        assert [sorted(r) for r in results] == [["z"], ["y", "z"]]
        assert results[1]["y"].tolist() == [[4]]
        assert results[1]["z"].tolist() == [[2]]

    def test_other_shapes_and_types_run_apart(self) -> None:
        results, runs = run(job(1), job(2, 3, width=2), job(4), job(5, dtype="f4"))
        assert sorted(runs) == [1, 2, 2]
        assert [r["y"].shape for r in results] == [(1, 1), (2, 2), (1, 1), (1, 1)]
        assert results[3]["y"].dtype == np.float32

    def test_a_bad_request_fails_alone(self) -> None:
        results, runs = run(job(1), job(13), job(2))
        assert runs == [3, 1, 1, 1]
        assert str(results[1]) == "thirteen"
        assert [results[0]["y"].tolist(), results[2]["y"].tolist()] == [[[2]], [[4]]]

    def test_without_batching_nothing_is_joined(self) -> None:
        results, runs = run(job(1, outputs=["sum"]), job(13), job(2), batching=False)
        assert runs == [1, 1, 1]
        assert results[0]["sum"].tolist() == [1]
        assert isinstance(results[1], RuntimeError)

    def test_an_output_without_the_batch_dimension_is_an_error_even_alone(self) -> None:
        results, _ = run(job(1, 2, outputs=["sum"]))
        assert "output 'sum' has shape [1] for a batch of 2" in str(results[0])


def test_strings_are_decoded() -> None:
    decoded = backend.decode_strings("s", np.array([[b"\xc3\xa9", b""]], dtype=np.object_))
    assert decoded.tolist() == [["é", ""]]
    with pytest.raises(backend.ModelError, match="'s': element is not UTF-8"):
        backend.decode_strings("s", np.array([b"\xff"], dtype=np.object_))
