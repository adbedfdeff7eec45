"""One contract for Triton: what the deployer takes for granted of a server, asked of the real one and of the fake."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_code.triton_deploy.clients.triton import GrpcTriton, Triton
from ml_code.triton_deploy.clients.triton.lifeline import Life
from ml_code.triton_deploy.errors import ArtifactRejected, DeployError, Misconfigured, NotFound, Unavailable
from ml_code.triton_deploy.model import model_config, onnx_model, reported_shapes
from ml_code.triton_deploy.repository import ModelFolder
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from ml_code.triton_deploy.rules.triton_errors.row import OtherShapes
from ml_code.triton_deploy.rules.version_files import Manifest
from stack import Stack
from stack.readiness import answers
from tests.support.fakes import FakeTriton, ones
from tests.support.models import times, unknown_operator
from tests.support.servers.blocked_storage import blocked
from tests.support.servers.tritons import TritonServer, triton_without_control
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

CALL_S = 20.0


@dataclass
class Bench:
    """A Triton, its repository, and a model name that is nobody else's."""

    triton: Triton
    repository: Path
    model: str

    def add(self, version: int, model: onnx.ModelProto | bytes, **options: Any) -> Schema:
        """Put a version and its engine into the repository, as a deploy would."""
        folder = ModelFolder.at(self.repository, self.model).versions.path(version)
        folder.mkdir(parents=True)
        content = model if isinstance(model, bytes) else model.SerializeToString()
        (folder / "model.onnx").write_bytes(content)
        schema = SCHEMA
        with contextlib.suppress(ArtifactRejected, Unavailable):
            schema = onnx_model.inspect(folder / "model.onnx", max_opset=99, max_ir_version=99)
        config = model_config.engine_config(self.model, version, schema, options)
        ModelFolder.at(self.repository, self.model).engines.complete(version, model_config.to_pbtxt(config))
        return schema

    def engine(self, version: int) -> str:
        return engine_name(self.model, version)

    def load(self, version: int) -> None:
        self.triton.load(self.engine(version), CALL_S)

    def switch(self, version: int, schema: Schema | None = None, **options: Any) -> None:
        """Make the public name point at a version, by an override: nothing on disk names it."""
        config = model_config.switch_config(self.model, version, schema or SCHEMA, options)
        self.triton.load(self.model, CALL_S, model_config.to_json(config))

    def ask(self, model: str, version: int | None = None) -> tuple[int, float]:
        answer = self.triton.infer(model, ones(), CALL_S, version)
        assert answer.outputs["y"].shape == (1, 2)
        assert 0 < answer.latency_s < CALL_S
        return answer.version, float(answer.outputs["y"][0, 0])

    def candidate(self, version: int) -> None:
        """Put a version there whose engine can't be parsed, and load it by its configuration."""
        schema = self.add(version, times(float(version)))
        config = model_config.engine_config(self.model, version, schema, {})
        folder = ModelFolder.at(self.repository, self.model)
        folder.engines.remove(version)
        folder.engines.write_candidate(version, "d1", model_config.to_pbtxt(config))
        self.triton.load(self.engine(version), CALL_S, model_config.to_json(config))

    def complete(self, version: int) -> None:
        """Let a Triton that is restarted load a version."""
        folder = ModelFolder.at(self.repository, self.model)
        folder.engines.complete(version, (folder.engines.folders(version)[1] / "verified.pbtxt").read_text())

    def remove(self) -> None:
        for engine in self.repository.glob(f"{self.model}.v*"):
            self.triton.unload(engine.name, CALL_S)
            shutil.rmtree(engine)
        self.triton.unload(self.model, CALL_S)
        shutil.rmtree(self.repository / self.model, ignore_errors=True)

    def down(self) -> bool:
        """Whether the public name answers nobody."""
        try:
            self.ask(self.model)
        except NotFound:
            return self.triton.ready_versions(self.model) == ()
        return False


SCHEMA = Schema.from_dict(
    {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
)


@pytest.fixture(params=["triton", "fake"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    model = f"port-{uuid.uuid4().hex[:10]}"
    if request.param == "fake":
        yield Bench(FakeTriton(tmp_path), tmp_path, model)
        return
    stack: Stack = request.getfixturevalue("stack")
    triton = GrpcTriton(stack.url("triton-grpc"), CALL_S)
    repository = stack.model_repository
    bench = Bench(triton, repository, model)
    yield bench
    bench.remove()


def test_an_engine_is_loaded_asked_and_unloaded(bench: Bench) -> None:
    bench.add(3, times(3))
    assert bench.triton.ready_versions(bench.engine(3)) == ()
    bench.load(3)
    assert bench.triton.ready_versions(bench.engine(3)) == (3,)
    assert bench.ask(bench.engine(3)) == (3, 3.0)
    assert bench.ask(bench.engine(3), 3) == (3, 3.0)
    assert bench.triton.ready_versions(bench.model) == (), "the public name is another model"
    bench.triton.unload(bench.engine(3), CALL_S)
    assert bench.triton.ready_versions(bench.engine(3)) == ()


def test_a_model_or_version_that_is_not_there_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.ask(bench.model)
    bench.add(1, times(1))
    bench.load(1)
    with pytest.raises(NotFound):
        bench.ask(bench.engine(1), 2)
    assert bench.ask(bench.engine(1), 1) == (1, 1.0)


def test_the_switch_moves_without_its_configuration_on_disk(bench: Bench) -> None:
    for version in (1, 2):
        bench.add(version, times(version))
        bench.load(version)
    bench.switch(1)
    assert bench.ask(bench.model) == (1, 1.0)
    bench.switch(2)
    assert bench.ask(bench.model) == (2, 2.0)
    assert bench.ask(bench.model, 2) == (2, 2.0)
    assert bench.triton.ready_versions(bench.model) == (2,)
    with pytest.raises(NotFound):
        bench.ask(bench.model, 1)
    assert bench.ask(bench.engine(1), 1) == (1, 1.0), "the version it left stays loaded"
    bench.switch(1)
    assert bench.ask(bench.model) == (1, 1.0)
    assert not (bench.repository / bench.model / "config.pbtxt").exists()


def test_a_switch_loads_the_engine_that_it_points_at(bench: Bench) -> None:
    bench.add(1, times(1))
    bench.switch(1)
    assert bench.ask(bench.model) == (1, 1.0)
    assert bench.triton.ready_versions(bench.engine(1)) == (1,)


def test_a_switch_to_what_cant_be_loaded_takes_the_public_name_down(bench: Bench) -> None:
    # The trap that makes a deploy look for the candidate on the same Triton right before every flip.
    bench.add(1, times(1))
    bench.load(1)
    bench.switch(1)
    bench.add(2, b"junk")
    with pytest.raises(DeployError):
        bench.switch(2)
    assert bench.down()
    assert bench.ask(bench.engine(1)) == (1, 1.0)
    bench.switch(1)
    assert bench.ask(bench.model) == (1, 1.0), "the way back"


def test_unloading_twice_and_what_was_never_there_is_fine(bench: Bench) -> None:
    bench.add(1, times(1))
    bench.load(1)
    for _ in range(2):
        bench.triton.unload(bench.engine(1), CALL_S)
    bench.triton.unload(bench.model, CALL_S)
    bench.triton.unload("nobody-ever-loaded-this", CALL_S)
    assert bench.triton.ready_versions(bench.engine(1)) == ()


def test_loading_an_unchanged_engine_again_is_fine(bench: Bench) -> None:
    bench.add(1, times(1))
    bench.load(1)
    bench.load(1)
    assert bench.ask(bench.engine(1), 1) == (1, 1.0)


@pytest.mark.parametrize("content", [b"junk", unknown_operator()], ids=["junk", "unknown-operator"])
def test_what_triton_cant_load_is_the_artifacts_fault_in_tritons_words(
    bench: Bench, content: onnx.ModelProto | bytes
) -> None:
    bench.add(1, content)
    with pytest.raises(ArtifactRejected, match=r"(?i)load") as failure:
        bench.load(1)
    assert bench.engine(1) in failure.value.message
    assert "\n" not in str(failure.value)
    reason = "protobuf" if content == b"junk" else "nobody.knows"
    assert reason in failure.value.message.lower(), "ONNX Runtime's own words"
    assert bench.triton.ready_versions(bench.engine(1)) == ()


def test_a_failed_candidate_leaves_the_public_name_alone(bench: Bench) -> None:
    bench.add(1, times(1))
    bench.load(1)
    bench.switch(1)
    bench.add(2, b"junk")
    with pytest.raises(ArtifactRejected):
        bench.load(2)
    assert bench.ask(bench.model) == (1, 1.0)
    bench.triton.unload(bench.engine(2), CALL_S)
    assert bench.ask(bench.model) == (1, 1.0)


def test_inputs_that_the_model_cant_take_are_the_models_failure(bench: Bench) -> None:
    bench.add(1, times(1))
    bench.load(1)
    for inputs in (ones(3), {"other": ones()["x"]}, {"x": np.ones((1, 2), np.int64)}):
        with pytest.raises(ArtifactRejected):
            bench.triton.infer(bench.engine(1), inputs, CALL_S)
    assert bench.ask(bench.engine(1)) == (1, 1.0)


def graph(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], *constants: onnx.TensorProto
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        list(constants),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("batch", [0, 8])
def test_strings_go_in_and_out(bench: Bench, batch: int) -> None:
    model = graph(
        [helper.make_node("Identity", ["word"], ["same"])],
        [("word", TensorProto.STRING, ["n", 2])],
        [("same", TensorProto.STRING, ["n", 2])],
    )
    schema = bench.add(1, model, max_batch_size=batch)
    bench.load(1)
    bench.switch(1, schema, max_batch_size=batch)
    words = np.array([["é", ""], ["two words", "x" * 1000]], dtype=np.object_)
    for name in (bench.engine(1), bench.model):
        answer = bench.triton.infer(name, {"word": words}, CALL_S)
        given = [w if isinstance(w, str) else w.decode() for w in answer.outputs["same"].ravel()]
        assert given == list(words.ravel())
        assert answer.outputs["same"].shape == (2, 2)


@pytest.mark.parametrize("batch", [0, 8])
def test_a_scalar_a_row_comes_through_engine_and_switch(bench: Bench, batch: int) -> None:
    # What a classifier's label is: shape [n], which leaves no dims when Triton takes the batch dimension off.
    model = graph(
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["x", "two"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["n", 2])],
        [("sum", TensorProto.FLOAT, ["n"]), ("y", TensorProto.FLOAT, ["n", 2])],
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.array([2], np.float32), "two"),
    )
    schema = bench.add(1, model, max_batch_size=batch)
    bench.load(1)
    bench.switch(1, schema, max_batch_size=batch)
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    for name in (bench.engine(1), bench.model):
        answer = bench.triton.infer(name, {"x": x}, CALL_S)
        assert answer.outputs["sum"].ravel().tolist() == [3, 7, 11]
        assert answer.outputs["sum"].shape in ((3,), (3, 1))
        assert answer.outputs["y"].tolist() == (2 * x).tolist()


@pytest.mark.parametrize("batch", [0, 8])
def test_a_scalar_a_row_goes_in_through_engine_and_switch(bench: Bench, batch: int) -> None:
    model = graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
        numpy_helper.from_array(np.array(2, np.float32), "two"),
    )
    schema = bench.add(1, model, max_batch_size=batch)
    bench.load(1)
    bench.switch(1, schema, max_batch_size=batch)
    real = isinstance(bench.triton, GrpcTriton)
    x = np.array([1, 2, 3], np.float32)
    for name in (bench.engine(1), bench.model):
        answer = bench.triton.infer(name, {"x": x.reshape(3, 1) if batch and real else x}, CALL_S)
        assert answer.outputs["y"].ravel().tolist() == [2, 4, 6]


def test_scalars_and_shapes_that_the_file_leaves_open_are_served(bench: Bench) -> None:
    model = graph(
        [
            helper.make_node("Mul", ["x", "s"], ["y"]),
            helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
            helper.make_node("Reshape", ["x", "shape"], ["z"]),
        ],
        [
            ("x", TensorProto.FLOAT, ["n", 2]),
            ("s", TensorProto.FLOAT, []),
            ("shape", TensorProto.INT64, ["r"]),
        ],
        # ONNX Runtime knows the second dimension of y, and of z not even the rank.
        [
            ("y", TensorProto.FLOAT, ["n", "m"]),
            ("sum", TensorProto.FLOAT, []),
            ("z", TensorProto.FLOAT, None),
        ],
    )
    schema = bench.add(1, model)
    assert [tensor.shape for tensor in schema.outputs] == [(-1, 2), (), ()]
    bench.load(1)
    bench.switch(1, schema)
    x = np.array([[1, 2], [3, 4]], np.float32)
    inputs = {"x": x, "s": np.full(1, 2, np.float32), "shape": np.array([1, 4])}
    for name in (bench.engine(1), bench.model):
        answer = bench.triton.infer(name, inputs, CALL_S)
        assert answer.outputs["y"].tolist() == (2 * x).tolist()
        assert answer.outputs["sum"].tolist() == [20]
        assert answer.outputs["z"].tolist() == [[1, 2, 3, 4]]


@pytest.fixture(params=["triton", "fake"])
def completing(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """A Triton whose backends complete configurations, as by default; that of the stack saves the time."""
    repository = tmp_path / "completing"
    repository.mkdir()
    triton: Triton = FakeTriton(repository)
    if request.param == "triton":
        triton = GrpcTriton(request.getfixturevalue("triton_server")(repository).grpc_url, CALL_S)
    return Bench(triton, repository, "best_model")


def reduced(rank: int, first: str | int) -> onnx.ModelProto:
    return graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=rank - 1)],
        [("x", TensorProto.FLOAT, [first, 2])],
        [("y", TensorProto.FLOAT, [first, 1][:rank])],
        numpy_helper.from_array(np.array([1]), "axes"),
    )


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([(1, "n"), (2, 1)], id="one open, one fixed"),
        pytest.param([(2, "n"), (1, 1)], id="the other ranks", marks=pytest.mark.soak),
    ],
)
def test_other_shapes_are_refused_and_without_tensors_it_completes_its_own(
    completing: Bench, cases: list[tuple[int, str | int]]
) -> None:
    """With NVIDIA's default batch size where every first dimension is open. A case is a rank and a first dimension."""
    triton = completing.triton
    for version, (rank, first) in enumerate(cases, start=1):
        schema, engine = completing.add(version, reduced(rank, first)), completing.engine(version)
        others = replace(schema, outputs=(Tensor("y", "FP32", (-1, -1, -1)),))
        for shape in ((-1, 7)[2 - rank :], (-1, -1, -1)):
            wrong = replace(schema, outputs=(Tensor("y", "FP32", shape),))
            config = model_config.engine_config(completing.model, version, wrong, {})
            with pytest.raises(OtherShapes, match="y"):
                triton.load(engine, CALL_S, model_config.to_json(config))
        asking = reported_shapes.asking_config(completing.model, manifest_of(version, others))
        triton.load(engine, CALL_S, model_config.to_json(asking))
        completed = triton.configuration(engine)
        assert completed.get("max_batch_size", 0) == (4 if first == "n" else 0)
        assert ("dynamic_batching" in completed) is (first == "n")
        assert reported_shapes.reported_schema(completed, others) == schema
        triton.unload(engine, CALL_S)
        with pytest.raises(NotFound):
            triton.configuration(engine)


def test_a_triton_that_completes_nothing_refuses_a_configuration_without_tensors(bench: Bench) -> None:
    if isinstance(bench.triton, FakeTriton):
        bench.triton.completes = False
    schema = bench.add(1, times(1))
    asking = reported_shapes.asking_config(bench.model, manifest_of(1, schema))
    with pytest.raises(ArtifactRejected, match="input 'x' of the file is required"):
        bench.triton.load(bench.engine(1), CALL_S, model_config.to_json(asking))


def manifest_of(version: int, schema: Schema) -> Manifest:
    names = ("digest", "fingerprint", "artifact_uri", "run_id")
    return Manifest(
        version=version, deploy_id="d1", files=(), schema=schema.to_dict(), **dict.fromkeys(names, "")
    )


def test_it_says_its_version(bench: Bench) -> None:
    assert bench.triton.about().version == "2.51.0"


# Only the real one


@pytest.fixture
def real(stack: Stack) -> GrpcTriton:
    return GrpcTriton(stack.url("triton-grpc"), CALL_S)


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < limit_s


def test_a_load_that_hangs_is_given_up_at_its_deadline(stack: Stack, real: GrpcTriton) -> None:
    bench = Bench(real, stack.model_repository, f"port-{uuid.uuid4().hex[:10]}")
    for version in (1, 2, 3):
        bench.add(version, times(version))
    bench.load(1)
    bench.switch(1)
    try:
        with blocked(bench.repository / bench.model / "2" / "model.onnx"):
            with (
                within(4),
                pytest.raises(Unavailable, match=r"did not finish loading .* within 2 s") as failure,
            ):
                real.load(bench.engine(2), 2)
            assert "restart that Triton" in failure.value.hint
            assert "TRITON_DEPLOY_LOAD_TIMEOUT_S" in failure.value.hint
            assert bench.ask(bench.model) == (1, 1.0)
            assert real.ready_versions(bench.engine(2)) == ()
            with within(3), pytest.raises(Unavailable, match=r"did not finish unloading .* within 1 s"):
                real.unload(bench.engine(2), 1)
            # Each version is a model of its own to Triton, so one that hangs blocks no other.
            bench.load(3)
            bench.switch(3)
            assert bench.ask(bench.model) == (3, 3.0)
    finally:
        bench.remove()


def test_a_triton_that_is_not_there_is_named_with_its_variable() -> None:
    triton = GrpcTriton("127.0.0.1:1", 2)
    actions: list[Callable[[], object]] = [
        lambda: triton.load("m", 2),
        lambda: triton.unload("m", 2),
        lambda: triton.ready_versions("m"),
        lambda: triton.infer("m", ones(), 2),
    ]
    for action in actions:
        with within(4), pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 can't be reached") as failure:
            action()
        assert "TRITON_DEPLOY_GRPC_URLS" in failure.value.hint


def test_a_triton_that_is_silent_is_given_up_at_the_deadline() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(10)
        triton = GrpcTriton(f"127.0.0.1:{listening.getsockname()[1]}", 1)
        with within(3), pytest.raises(Unavailable) as failure:
            triton.ready_versions("m")
    assert "127.0.0.1" in failure.value.message


def test_a_triton_on_another_repository_is_named_with_the_setting(real: GrpcTriton) -> None:
    with pytest.raises(Misconfigured, match="does not see the model") as failure:
        real.load("a-model-that-only-we-have.v1", CALL_S)
    assert "TRITON_DEPLOY_REPOSITORY" in failure.value.hint
    assert "--model-repository" in failure.value.hint


def test_a_configuration_that_triton_refuses_is_told_from_a_folder_that_it_does_not_see(
    stack: Stack, real: GrpcTriton
) -> None:
    bench = Bench(real, stack.model_repository, f"port-{uuid.uuid4().hex[:10]}")
    # No check of ours: what a later Triton refuses, and we know nothing of.
    refused = {"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}}
    schema = bench.add(1, times(1))
    config = model_config.engine_config(bench.model, 1, schema, refused)
    try:
        with pytest.raises(ArtifactRejected, match="refuses the configuration") as failure:
            real.load(bench.engine(1), CALL_S, model_config.to_json(config))
        assert "triton/config.json" in failure.value.hint
        assert "dynamic batching preferred size must be <=" in stack.log_path("triton").read_text()
        bench.load(1)
        assert bench.ask(bench.engine(1)) == (1, 1.0)
        # Of what the public name points at, the files are looked at as well.
        (bench.repository / bench.engine(1) / "config.pbtxt").write_text("nonsense {")
        with pytest.raises(Misconfigured, match="sees that folder, and refuses its configuration") as broken:
            bench.load(1)
        assert "triton-deploy reconcile" in broken.value.hint
    finally:
        bench.remove()


def test_a_locale_that_the_machine_lacks_is_no_fault_of_the_model(stack: Stack, real: GrpcTriton) -> None:
    node = helper.make_node(
        "StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="no_WHERE.UTF-8"
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y])
    bench = Bench(real, stack.model_repository, f"port-{uuid.uuid4().hex[:10]}")
    bench.add(1, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    try:
        with pytest.raises(Unavailable, match="Failed to construct locale with name:no_WHERE") as failure:
            bench.load(1)
        assert "locale-gen" in failure.value.hint
    finally:
        bench.remove()


def test_files_that_triton_does_not_see_are_nobodys_fault(stack: Stack, real: GrpcTriton) -> None:
    bench = Bench(real, stack.model_repository, f"port-{uuid.uuid4().hex[:10]}")
    bench.add(1, times(1))
    model = bench.repository / bench.engine(1) / "1" / "model.onnx"
    hidden = model.rename(model.with_suffix(".hidden"))
    try:
        with pytest.raises(Unavailable, match=r"model\.onnx") as failure:
            bench.load(1)
        assert "NFS" in failure.value.hint
        hidden.rename(model)
        bench.load(1)
        assert bench.ask(bench.engine(1)) == (1, 1.0)
    finally:
        bench.remove()


@contextlib.contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """While the block runs, that process opens no file."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_triton_without_descriptors_blames_no_model(
    triton_server: Callable[..., TritonServer], tmp_path: Path
) -> None:
    server = triton_server(tmp_path / "repository")
    bench = Bench(GrpcTriton(server.grpc_url, CALL_S), tmp_path / "repository", "starved")
    for version in (1, 2):
        bench.add(version, times(version))
    bench.load(1)
    calls: list[Callable[[], object]] = [
        lambda: bench.load(2),
        bench.triton.loaded,
        lambda: bench.triton.unload(bench.engine(2), CALL_S),
    ]
    with no_descriptor_left(server.pid):
        said: list[DeployError] = []
        for call in calls:
            try:
                call()
            except DeployError as error:
                said.append(error)
    assert said
    assert not any(error.blames_artifact for error in said), said
    bench.load(2)
    assert bench.ask(bench.engine(2)) == (2, 2.0)


def test_names_in_a_model_move_no_cursor_of_whoever_reads_why_it_failed(
    stack: Stack, real: GrpcTriton
) -> None:
    bench = Bench(real, stack.model_repository, f"port-{uuid.uuid4().hex[:10]}")
    bench.add(1, times(1))
    bench.load(1)
    try:
        with pytest.raises(ArtifactRejected) as failure:
            real.infer(bench.engine(1), {"\x1b[2J\nERROR forged": ones()["x"]}, CALL_S)
        assert r"\x1b[2J ERROR forged" in failure.value.message
        assert str(failure.value).isprintable()
    finally:
        bench.remove()


def test_the_http_port_is_named_as_not_grpc(stack: Stack) -> None:
    triton = GrpcTriton(stack.url("triton").removeprefix("http://"), 2)
    with within(5), pytest.raises(Unavailable) as failure:
        triton.ready_versions("m")
    assert "TRITON_DEPLOY_GRPC_URLS has its gRPC port" in failure.value.hint


def test_a_triton_that_is_not_in_explicit_mode_is_named_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with triton_without_control(tmp_path, tmp_path / "repository") as url:
        triton = GrpcTriton(url, CALL_S)
        for action in (lambda: triton.load("m", CALL_S), lambda: triton.unload("m", CALL_S)):
            with pytest.raises(Misconfigured) as failure:
                action()
            assert "--model-control-mode=explicit" in failure.value.hint


def test_a_candidate_can_be_loaded_by_its_configuration_alone(bench: Bench) -> None:
    bench.candidate(1)
    assert bench.ask(bench.engine(1)) == (1, 1.0)
    bench.triton.unload(bench.engine(1), CALL_S)
    with pytest.raises(Misconfigured):
        bench.load(1)


def test_the_public_name_can_point_at_a_candidate_again_and_again(bench: Bench) -> None:
    """Each time Triton looks whether anything in the engine's folder has changed since its load: nothing has."""
    bench.add(1, times(1))
    bench.load(1)
    bench.candidate(2)
    for version in (2, 1, 2, 1):
        bench.switch(version)
        assert bench.ask(bench.model) == (version, float(version))
    bench.complete(2)
    for version in (2, 1, 2):
        bench.switch(version)
        assert bench.ask(bench.model) == (version, float(version))


def test_a_candidate_whose_folder_was_touched_is_read_again(bench: Bench) -> None:
    """By a time of change that nobody can set back; the public name points there in spite of the answer."""
    bench.candidate(1)
    config = ModelFolder.at(bench.repository, bench.model).engines.folders(1)[1] / "candidate.pbtxt"
    time.sleep(0.05)
    config.chmod(0o600)
    with pytest.raises(Misconfigured):
        bench.switch(1)
    assert bench.ask(bench.model) == (1, 1.0)


def test_states_are_of_what_the_process_was_told_to_load(bench: Bench) -> None:
    bench.candidate(1)
    bench.add(2, b"junk")
    bench.add(3, times(3))
    with pytest.raises(DeployError):
        bench.load(2)
    bench.load(3)
    bench.triton.unload(bench.engine(3), CALL_S)
    eventually(lambda: str(bench.triton.states()[bench.engine(3)]) != "UNLOADING", "it is unloaded")
    states = {name: str(state) for name, state in bench.triton.states().items()}
    assert states[bench.engine(1)] == "READY"
    assert states[bench.engine(2)].startswith("UNAVAILABLE: ")
    assert states[bench.engine(3)] == "UNAVAILABLE: unloaded"
    bench.add(4, times(4))
    assert bench.engine(4) not in bench.triton.states()


def test_a_lifeline_answers_as_long_as_the_process_is_the_same(bench: Bench) -> None:
    with bench.triton.lifeline(bench.engine(1)) as line:
        assert line.look() is Life.SAME
        bench.add(1, times(1))
        bench.load(1)
        assert line.look() is Life.SAME


def end(bench: Bench, stack: Stack | None, how: signal.Signals) -> None:
    if isinstance(bench.triton, FakeTriton):
        bench.triton.restart()
        return
    assert stack is not None
    os.kill(stack.pid("triton"), how)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.soak)])
def test_a_lifeline_tells_that_the_process_has_ended(
    bench: Bench, request: pytest.FixtureRequest, how: signal.Signals
) -> None:
    real = not isinstance(bench.triton, FakeTriton)
    stack: Stack | None = request.getfixturevalue("stack") if real else None
    bench.add(1, times(1))
    bench.load(1)
    try:
        with bench.triton.lifeline(bench.engine(1)) as line:
            end(bench, stack, how)
            deadline = time.monotonic() + CALL_S
            # On SIGSEGV it writes where it was, and answers meanwhile.
            while (life := line.look()) is Life.SAME and time.monotonic() < deadline:
                time.sleep(0.05)
            assert life is Life.ENDED
    finally:
        if stack is not None:
            eventually(lambda: stack.states()["triton"].state == "RUNNING", "Triton runs")
            stack.wait_ready("triton")


def test_a_lifeline_keeps_no_triton_from_its_exit_and_tells_it_from_an_end(tmp_path: Path) -> None:
    with Stack(tmp_path, ["triton"], model_repository=tmp_path / "repository") as stack:
        server = TritonServer(stack)
        with GrpcTriton(server.grpc_url, CALL_S).lifeline("any") as line:
            asked_at = time.monotonic()
            server.stop()
            assert time.monotonic() - asked_at < 8, "it is stopped by force after ten seconds"
            assert line.look() is Life.LEFT


def test_a_restarted_triton_lists_a_candidate_without_a_state(tmp_path: Path) -> None:
    with Stack(tmp_path, ["triton"], model_repository=tmp_path / "repository") as stack:
        triton = GrpcTriton(stack.url("triton-grpc"), CALL_S)
        bench = Bench(triton, tmp_path / "repository", "best_model")
        bench.add(1, times(1))
        bench.candidate(2)
        stack.restart("triton")
        states = GrpcTriton(stack.url("triton-grpc"), CALL_S).states()
        assert {name: str(state) for name, state in states.items()} == {"best_model.v1": "READY"}
        assert answers(f"{stack.url('triton')}/v2/health/ready") is None, "it is ready"
