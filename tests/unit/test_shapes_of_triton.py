"""A load that Triton refuses for its shapes is tried once more with Triton's, and what becomes of the version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ml_code.triton_deploy.cli import main
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.errors import EndedTriton, SchemaChanged, TritonsDiffer, Unavailable
from ml_code.triton_deploy.model import reported_shapes
from ml_code.triton_deploy.repository.installed_manifest import digest_of
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.rules.schema import Schema, Tensor
from ml_code.triton_deploy.rules.shapes import Reported, differences, is_open, shape_facts, told, with_facts
from ml_code.triton_deploy.rules.triton_errors.row import OtherShapes
from ml_code.triton_deploy.rules.version_files import Manifest
from tests.support.fakes import FakeTriton, unavailable
from tests.support.models import files, golden, open_columns, times
from tests.support.settings import changed
from tests.support.world import MODEL, World

THERE = {"y": (-1, 2)}
"""The shape that these Tritons have of the answer; ONNX Runtime has [-1, -1] here."""
RUNTIME = reported_shapes.runtime_version()


def register(world: World, version: int = 1, **options: Any) -> None:
    artifact = files(open_columns(float(version)), triton__golden_json=golden(float(version)))
    if options:
        artifact["triton/config.json"] = json.dumps(options).encode()
    world.register(version, artifact)


def output_of(config: Any) -> list[tuple[str, list[int]]]:
    return [(tensor.name, list(tensor.dims)) for tensor in config.output]


def written(path: Path) -> Any:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def schema_of(world: World, version: int) -> Schema:
    return Schema.from_dict(world.folder.versions.require(version).schema)


def loads(triton: FakeTriton) -> list[str]:
    return [call for call in triton.calls if call.startswith(("load ", "unload ", "configuration "))]


def whole(world: World, record: Deployment, version: int = 1) -> None:
    """The record, the manifest, the release and the files for a restart all have Triton's shape."""
    assert record.state is State.COMMITTED
    assert schema_of(world, version).outputs == (Tensor("y", "FP32", (-1, 2)),)
    release = world.folder.releases.latest()
    assert release is not None
    digest = world.folder.versions.manifest_digest(version)
    assert digest == record.manifest_digest == release.manifest_digest
    assert not [*world.folder.versions.damage(version, deep=True, release=release)]
    assert output_of(written(world.root / f"{MODEL}.v{version}" / "config.pbtxt")) == [("y", [-1, 2])]
    assert output_of(written(world.root / MODEL / "config.pbtxt")) == [("y", [-1, 2])]
    world.triton.restart_with_all()
    assert world.ask() == (version, float(version))


def test_a_refused_shape_is_replaced_by_tritons(world: World, caplog: pytest.LogCaptureFixture) -> None:
    register(world)
    world.triton.shapes = THERE
    record = world.deploy()
    engine = f"{MODEL}.v1"
    assert loads(world.triton) == [
        # The refused load, the one that asks, and the one that serves.
        *(f"unload {engine}", f"load {engine}"),
        *(f"unload {engine}", f"load {engine}", f"configuration {engine}", f"unload {engine}"),
        *(f"unload {engine}", f"load {engine}"),
        f"load {MODEL}",
    ]
    whole(world, record)
    assert record.shapes["differences"] == ["y is [-1, 2] there and [-1, -1] here"]
    assert record.shapes["triton"] == "2.51.0 at fake:1"
    assert record.shapes["onnxruntime"] == RUNTIME
    said = f"shapes of Triton 2.51.0 at fake:1, not of ONNX Runtime {RUNTIME}: y is [-1, 2] there and [-1, -1] here"
    assert told(record.shapes) == said
    assert f"version 1 is loaded once more with the {said}" in caplog.text


def test_the_engine_that_asks_is_never_served(world: World) -> None:
    """It has NVIDIA's default batch size, and dims that lack their first place; what serves has neither."""
    register(world)
    world.triton.shapes = THERE
    world.deploy()
    served = world.triton.configuration(f"{MODEL}.v1")
    assert "max_batch_size" not in served
    assert "dynamic_batching" not in served
    assert served["output"][0]["dims"] == ["-1", "2"]


def test_options_are_kept_and_with_a_batch_size_the_shape_is_the_same(world: World) -> None:
    register(world, max_batch_size=8, dynamic_batching={"max_queue_delay_microseconds": 7})
    world.triton.shapes = THERE
    record = world.deploy()
    assert schema_of(world, 1).outputs == (Tensor("y", "FP32", (-1, 2)),)
    served = world.triton.configuration(f"{MODEL}.v1")
    assert (served["max_batch_size"], served["output"][0]["dims"]) == (8, ["2"])
    assert record.shapes["differences"] == ["y is [-1, 2] there and [-1, -1] here"]


def test_options_that_do_not_go_with_tritons_shapes_are_refused(world: World) -> None:
    register(world, max_batch_size=8)
    world.triton.shapes = {"y": (1, 2)}
    with pytest.raises(Exception, match="max_batch_size is 8, but not every input and output"):
        world.deploy()
    assert world.folder.releases.latest() is None


def test_a_triton_that_does_not_tell_its_shapes_refuses_for_good(world: World) -> None:
    """With --disable-auto-complete-config no backend completes a configuration."""
    register(world)
    world.triton.shapes = THERE
    world.triton.completes = False
    with pytest.raises(OtherShapes) as refused:
        world.deploy()
    for part in (
        "the file has [-1, 2], the configuration says [-1, -1]",
        "input 'x' of the file is required, but the configuration lacks it",
        "--disable-auto-complete-config",
        f"The deployer has ONNX Runtime {RUNTIME}; Triton is 2.51.0 at fake:1",
    ):
        assert part in refused.value.message
    assert world.triton.loaded() == {}


class Fickle(FakeTriton):
    """Has another shape at each load."""

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        times_loaded = len([call for call in self.calls if call.startswith("load ")])
        self.shapes = {"y": (-1, 3 + times_loaded)}
        super().load(model, timeout_s, config)


def test_a_difference_that_remains_names_both_shapes_and_both_versions(world: World) -> None:
    register(world)
    world.triton = Fickle(world.root)
    with pytest.raises(OtherShapes) as refused:
        world.deploy()
    # It was loaded thrice: refused, asked, and refused again.
    found, last = 4, 5
    for part in (
        f"the file has [-1, {last}], the configuration says [-1, {found}]",
        f"The deployer has ONNX Runtime {RUNTIME}; Triton is 2.51.0 at fake:1",
        f"y is [-1, {found}] there and [-1, -1] here",
    ):
        assert part in refused.value.message
    assert [call for call in loads(world.triton) if call.startswith("configuration")] == [
        f"configuration {MODEL}.v1"
    ], "it is tried once more, and not again and again"
    assert world.folder.releases.latest() is None


def test_a_process_that_ends_while_it_tells_its_shapes_is_no_shape_error(world: World) -> None:
    register(world)
    world.triton.shapes = THERE
    world.triton.ends_at = {f"configuration {MODEL}.v1": 1}
    with pytest.raises(EndedTriton, match="ended while it told the shapes of version 1"):
        world.deploy()


def test_a_triton_that_falls_silent_meanwhile_is_tried_again_later(world: World) -> None:
    register(world)
    world.triton.shapes = THERE
    world.triton.fail = {f"configuration {MODEL}.v1": unavailable()}
    with pytest.raises(Unavailable):
        world.deploy()
    world.triton.fail = {}
    whole(world, world.deploy("d2"))


def test_fixed_shapes_are_not_asked_for(world: World) -> None:
    model = open_columns(1.0)
    for tensor in (*model.graph.input, *model.graph.output):
        for place, size in enumerate((1, 2)):
            tensor.type.tensor_type.shape.dim[place].dim_value = size
    world.register(1, files(model, triton__golden_json=golden(1.0)))
    world.triton.shapes = {"y": (1, 3)}
    with pytest.raises(OtherShapes, match=f"The deployer has ONNX Runtime {RUNTIME}"):
        world.deploy()
    assert f"configuration {MODEL}.v1" not in world.triton.calls


def test_tritons_shapes_may_not_break_clients_of_the_live_version(world: World) -> None:
    register(world)
    world.triton.shapes = THERE
    world.deploy()
    register(world, 2)
    world.triton.shapes = {"y": (-1, -1)}
    with pytest.raises(SchemaChanged, match=r"output y FP32\[-1, 2\] became y FP32\[-1, -1\]"):
        world.deploy("d2")
    assert world.ask() == (1, 1.0)
    world.triton.shapes = THERE
    assert schema_of(world, 1).outputs[0].shape == (-1, 2)


def test_the_next_version_of_the_same_shapes_begins_with_tritons(world: World) -> None:
    """Else every later version would seem to break the live one's clients: [-1, 2] would become [-1, -1]."""
    register(world)
    world.triton.shapes = THERE
    world.deploy()
    for version in (2, 3):
        register(world, version)
        world.triton.calls.clear()
        record = world.deploy(f"d{version}")
        assert f"configuration {MODEL}.v{version}" not in world.triton.calls
        assert not record.shapes
        whole(world, record, version)
    world.register(4, files(times(4.0), triton__golden_json=golden(4.0)))
    whole(world, world.deploy("d4"), 4)
    assert not world.folder.versions.require(4).inferred


def test_a_version_of_an_earlier_deployment_is_left_as_it_is(world: World) -> None:
    """Its digest is part of its release: a revert would find it damaged."""
    register(world)
    world.deploy()
    for version in (2, 3):
        register(world, version)
        world.deploy(f"d{version}")
    before = world.folder.versions.manifest_digest(1)
    world.triton.shapes = THERE
    world.registry.models[MODEL]["A"] = replace(
        world.registry.models[MODEL]["A"], version=1, run_id="run1", artifact_uris=("fake://artifacts/1",)
    )
    with pytest.raises(OtherShapes):
        world.deploy("d4")
    assert world.folder.versions.manifest_digest(1) == before


class Staged:
    """A world with a staging Triton."""

    def __init__(self, world: World) -> None:
        self.world, self.staging = world, FakeTriton(world.root, "staging:1")

    def deploy(self) -> Deployment:
        world = self.world
        settings = changed(
            world.settings, triton__staging_grpc_url=self.staging.url, triton__staging_wait_s=0
        )
        deployer = Deployer(
            settings,
            registry=world.registry,
            stores=lambda uri: world.store,
            tritons=[world.triton],
            staging=self.staging,
            clock=lambda: world.now,
        )
        return deployer.deploy(world.request())


@pytest.fixture
def staged(world: World) -> Staged:
    register(world)
    return Staged(world)


def test_the_staging_triton_is_asked_where_there_is_one(staged: Staged) -> None:
    staged.staging.shapes = staged.world.triton.shapes = THERE
    record = staged.deploy()
    whole(staged.world, record)
    assert record.shapes["triton"] == "2.51.0 at staging:1"
    assert record.staging["result"] == "passed"
    assert staged.staging.loaded() == {}
    assert "configuration best_model.v1" not in staged.world.triton.calls
    met = [call for call in loads(staged.world.triton) if call == "load best_model.v1"]
    # The second is that of the restart in ``whole``.
    assert len(met) == 2, "one that serves never meets the refused configuration"


def test_a_staging_triton_unlike_the_serving_one_is_named(staged: Staged) -> None:
    staged.staging.shapes = THERE
    with pytest.raises(OtherShapes) as refused:
        staged.deploy()
    assert "the file has [-1, -1], the configuration says [-1, 2]" in refused.value.message
    assert "Triton 2.51.0 at staging:1" in refused.value.message
    assert staged.world.folder.releases.latest() is None


def test_tritons_that_have_different_shapes_differ(world: World) -> None:
    register(world)
    first, second = FakeTriton(world.root, "fake:1"), FakeTriton(world.root, "fake:2")
    first.shapes, second.shapes = THERE, {"y": (-1, 3)}
    with pytest.raises(
        TritonsDiffer, match=r"fake:2.*the file has \[-1, 3\].*fake:1 took the same candidate"
    ):
        world.deployer(tritons=[first, second]).deploy(world.request())
    first.shapes = second.shapes = THERE
    register(world, 2)
    record = world.deployer(tritons=[first, second]).deploy(world.request("d2"))
    assert record.state is State.COMMITTED
    assert record.shapes["triton"] == "2.51.0 at fake:1"


# A process that ends between the fact and the manifest


def test_a_step_that_is_repeated_writes_what_is_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(world)
    world.triton.shapes = THERE
    deployer = world.deployer()
    deployer.snapshot(world.request())
    deployer.materialize(MODEL, "d1")

    class Ended(BaseException):
        pass

    def end(*args: Any) -> None:
        raise Ended

    with monkeypatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.repository.durable.replace_within", end)
        with pytest.raises(Ended):
            deployer.load(MODEL, "d1")
    noted = world.folder.journal.get("d1")
    assert noted.shapes
    assert noted.manifest_digest != world.folder.versions.manifest_digest(1)
    assert schema_of(world, 1).outputs[0].shape == (-1, -1)
    world.triton.calls.clear()
    again = world.deployer()
    for step in (again.load, again.ready, again.smoke, again.commit):
        step(MODEL, "d1")
    assert "configuration best_model.v1" not in world.triton.calls, "the shapes are known"
    whole(world, world.folder.journal.get("d1"))


def test_a_step_that_is_repeated_asks_no_more(world: World) -> None:
    register(world)
    world.triton.shapes = THERE
    deployer = world.deployer()
    deployer.snapshot(world.request())
    deployer.materialize(MODEL, "d1")
    world.triton.fail = {"lifeline": unavailable()}
    with pytest.raises(Unavailable):
        deployer.load(MODEL, "d1")
    world.triton.fail = {}
    world.triton.shapes = {"y": (-1, 5)}
    record = world.folder.journal.get("d1")
    ours = schema_of(world, 1)
    narrow = Schema(ours.inputs, (Tensor("y", "FP32", (-1, 2)),))
    facts = shape_facts(ours, Reported(narrow, "2.51.0 at fake:1"), RUNTIME)
    better = with_facts(world.folder.versions.require(1), facts)
    noted = replace(record, shapes=facts, manifest_digest=digest_of(better))
    world.folder.journal.append(noted, record)
    with pytest.raises(OtherShapes, match="had other ones"):
        deployer.load(MODEL, "d1")
    assert "configuration best_model.v1" not in world.triton.calls


def test_status_and_history_say_whose_shapes_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(world)
    world.triton.shapes = THERE
    record = world.deploy()
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    monkeypatch.setenv("TRITON_DEPLOY_GRPC_URLS", "127.0.0.1:1")
    monkeypatch.setenv("TRITON_DEPLOY_SWITCH_TIMEOUT_S", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    main(["status", MODEL])
    assert f"  {told(record.shapes)}" in capsys.readouterr().out.splitlines()
    main(["history", MODEL])
    assert f"[{told(record.shapes)}]" in capsys.readouterr().out
    main(["status", MODEL, "--deploy-id", "d1"])
    assert told(record.shapes) in capsys.readouterr().out


# What a completed configuration says


KNOWN = Schema(
    (Tensor("x", "FP32", (-1, -1)), Tensor("w", "FP32", (1,), optional=True)),
    (Tensor("y", "FP32", (-1, -1)), Tensor("label", "BYTES", (-1,)), Tensor("loss", "FP32", ())),
)


def entry(name: str, *dims: int, kind: str = "TYPE_FP32", **more: Any) -> dict[str, Any]:
    # JSON of protobuf has 64-bit numbers as text.
    return {"name": name, "data_type": kind, "dims": [str(size) for size in dims], **more}


def test_a_batch_size_that_the_backend_chose_is_taken_back() -> None:
    config = {
        "max_batch_size": 4,
        "dynamic_batching": {},
        "input": [entry("x", 7)],
        "output": [
            entry("label", 1, kind="TYPE_STRING", reshape={}),
            entry("y", 3),
            entry("loss", 1, reshape={}),
        ],
    }
    found = reported_shapes.reported_schema(config, KNOWN)
    assert [tensor.shape for tensor in found.inputs] == [(-1, 7), (1,)]
    assert [tensor.shape for tensor in found.outputs] == [(-1, 3), (-1,), (-1,)]
    assert found.inputs[1].optional


def test_without_a_batch_size_a_scalar_stays_one() -> None:
    config = {
        "input": [entry("x", -1, 7)],
        "output": [entry("y", -1, 3), entry("label", 5, kind="TYPE_STRING"), entry("loss", 1)],
    }
    found = reported_shapes.reported_schema(config, KNOWN)
    assert [tensor.shape for tensor in found.outputs] == [(-1, 3), (5,), ()]
    assert differences(KNOWN, found) == [
        "x is [-1, 7] there and [-1, -1] here",
        "y is [-1, 3] there and [-1, -1] here",
        "label is [5] there and [-1] here",
    ]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"input": [entry("x", 7)]},
        {"input": [entry("x", 7, kind="TYPE_FP64")], "output": [entry("y", 3)]},
        {"input": [entry("x", -2)], "output": [entry("y", 3)]},
        {"input": [entry("x", 2**63)], "output": [entry("y", 3)]},
    ],
    ids=["nothing", "no output", "another type", "a negative size", "too large"],
)
def test_what_is_no_completed_configuration_is_not_taken_over(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the completed configuration"):
        reported_shapes.reported_schema(config, KNOWN)


def test_the_load_that_asks_has_the_options_that_make_the_session() -> None:
    options = {
        "optimization": {"graph": {"level": 2}},
        "instance_group": [{"kind": "KIND_GPU", "gpus": [1]}],
        "parameters": {"intra_op_thread_count": 1},
        "max_batch_size": 8,
        "dynamic_batching": {},
        "model_warmup": [{"batch_size": 1, "inputs": {}}],
    }
    manifest = Manifest(
        version=7,
        digest="",
        fingerprint="",
        artifact_uri="",
        run_id="",
        deploy_id="d1",
        files=(),
        schema=KNOWN.to_dict(),
        options=options,
    )
    assert reported_shapes.asking_config("m", manifest) == {
        "name": "m.v7",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [7]}},
        "optimization": {"graph": {"level": 2}},
        "instance_group": [{"kind": "KIND_GPU", "gpus": [1]}],
        "parameters": {"intra_op_thread_count": 1},
    }


@pytest.mark.parametrize(("shape", "opened"), [((), False), ((2, 3), False), ((-1, 3), True)])
def test_only_a_size_that_is_not_fixed_is_open(shape: tuple[int, ...], opened: bool) -> None:
    assert is_open(Schema((Tensor("x", "FP32", (2,)),), (Tensor("y", "FP32", shape),))) is opened


def test_the_facts_are_the_same_when_they_are_read_back() -> None:
    facts = shape_facts(KNOWN, Reported(KNOWN, "2.51.0 at t:1"), "1.31.1")
    assert json.loads(json.dumps(facts)) == facts
    assert told({}) == ""
