"""Scenarios of a deploy on fakes; what is asserted is what is on disk, in Triton, and told to the user."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.deploy import steps
from ml_code.triton_deploy.deploy.deployments import Deployments
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import (
    AliasNotFound,
    ArtifactRejected,
    DeployError,
    IllegalTransition,
    InvalidInput,
    LeaseHeld,
    NotFound,
    Quarantined,
    SchemaChanged,
    StorageFailed,
    Superseded,
    Unavailable,
    VerificationFailed,
)
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.fleet.model_on_triton import ModelOnTriton
from ml_code.triton_deploy.fleet.serving_files import ServingFiles
from ml_code.triton_deploy.model import onnx_model
from ml_code.triton_deploy.repository.releases import Releases
from ml_code.triton_deploy.rules.deployment import Canary, Deployment, State
from ml_code.triton_deploy.rules.version_files import Manifest
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import unavailable
from tests.support.faults.killed_process import Stopper
from tests.support.faults.operations import prepared_for_rollback
from tests.support.models import external, files, golden, times, unknown_operator
from tests.support.world import MODEL, World, deployed

STEPS = ("materialize", "load", "ready", "smoke", "commit")


def test_the_first_deploy_makes_the_version_live(world: World) -> None:
    world.register_times(1)
    record = world.deploy()
    assert record.state is State.COMMITTED
    assert world.ask() == (1, 1.0)
    current = json.loads(world.current or "")
    assert current["active_version"] == 1
    assert current["generation"] == 1
    assert current["previous_version"] is None
    assert (current["run_id"], current["alias"], current["deploy_id"]) == ("run1", "A", "d1")
    assert world.engines == {"best_model.v1"}
    assert (world.root / "best_model.v1/1/model.onnx").resolve() == world.root / "best_model/1/model.onnx"


def test_a_second_deploy_keeps_the_first_version_warm_and_retires_older_ones(world: World) -> None:
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    assert world.ask() == (3, 3.0)
    assert world.engines == {"best_model.v2", "best_model.v3"}
    assert world.triton.ready_versions("best_model.v1") == ()
    assert world.triton.ready_versions("best_model.v2") == (2,)
    assert {"1", "2", "3"} <= world.names, "released versions stay on disk"
    assert json.loads(world.current or "")["warm_versions"] == [2]


def test_a_restarted_triton_serves_what_is_live_from_the_files_alone(world: World) -> None:
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    world.triton.restart(MODEL)
    assert world.ask() == (2, 2.0)


def test_deploying_the_live_version_again_changes_nothing(world: World) -> None:
    world.register_times(1)
    world.deploy()
    before, calls = world.current, len(world.triton.calls)
    record = world.deploy("again")
    assert record.state is State.UNCHANGED
    assert world.current == before
    assert {call.split()[0] for call in world.triton.calls[calls:]} == {"ready_versions"}
    world.register_times(2)
    assert world.deploy("d3").state is State.COMMITTED, "the lease was given back"


def test_the_live_version_is_deployed_again_when_triton_lost_it(world: World) -> None:
    world.register_times(1)
    world.deploy()
    world.triton.restart()
    assert world.deploy("again").state is State.COMMITTED
    assert world.ask() == (1, 1.0)
    assert world.store.reads.count("model.onnx") == 1, "its bytes were here"


# Failures: everything is as it was


def broken(world: World, step: str) -> type[DeployError]:
    """Register version 2 and make one step of its deploy fail; return what the user must see."""
    world.register_times(2)
    world.triton.fail.clear()
    if step == "materialize":
        world.register(2, files(b"junk"))
        return ArtifactRejected
    if step == "load":
        world.triton.fail["load best_model.v2"] = ArtifactRejected("no", hint="")
        return ArtifactRejected
    if step == "ready":
        real = world.triton.load

        def load(model: str, timeout_s: float, config: str | None = None) -> None:
            real(model, timeout_s, config)
            if model == "best_model.v2":
                world.triton.unload(model, 1)

        world.triton.load = load  # type: ignore[method-assign]
        return NotFound
    if step == "smoke":
        world.register_times(2, expected=7.0)
        return VerificationFailed
    # At the last instruction before the decision: clients can reach the candidate by then.
    world.triton.fail["infer best_model"] = Unavailable("cut off", hint="")
    return Unavailable


@pytest.mark.parametrize("step", STEPS)
def test_a_failed_step_leaves_everything_as_it_was(world: World, step: str) -> None:
    world.register_times(1)
    world.deploy()
    before, engines = world.current, world.engines
    expected = broken(world, step)
    with pytest.raises(expected):
        world.deploy("d2")
    world.triton.fail.clear()
    assert world.current == before
    assert world.ask() == (1, 1.0)
    assert world.engines == engines
    assert world.triton.ready_versions("best_model.v2") == ()
    (quarantined,) = (name for name in world.names if ".failed_" in name)
    assert quarantined == "2.failed_20260102T030405"
    failure = json.loads((world.root / MODEL / quarantined / "failure.json").read_text())
    assert failure["step"] == step
    assert failure["error"]
    record = world.folder.journal.get("d2")
    assert record.state is State.ROLLED_BACK
    assert record.quarantine == quarantined
    assert not any(name.startswith(".staging") for name in world.names)


@pytest.mark.parametrize("step", STEPS)
def test_the_next_deploy_works_after_a_failed_step(world: World, step: str) -> None:
    world.register_times(1)
    world.deploy()
    with pytest.raises(broken(world, step)):
        world.deploy("d2")
    world.triton.fail.clear()
    world.register_times(3)
    assert world.deploy("d3").state is State.COMMITTED
    assert world.ask() == (3, 3.0)
    assert json.loads(world.current or "")["previous_version"] == 1


@pytest.mark.parametrize("step", STEPS)
def test_a_failed_first_deploy_leaves_no_model(world: World, step: str) -> None:
    with pytest.raises(broken(world, step)):
        world.deploy("d2")
    assert world.current is None
    assert world.engines == set()
    assert world.triton.ready_versions(MODEL) == ()
    assert "config.pbtxt" not in world.names
    assert "2" not in world.names


def test_a_release_of_somebody_else_wins_and_the_switch_goes_back_to_it(world: World) -> None:
    world.register_times(1)
    world.deploy()
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("slow"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "slow")
    # Without its lease: the guard is the generation's file, not the lease.
    world.folder.lease.release("slow")
    world.register_times(3)
    world.deploy("fast")
    world.folder.lease.acquire("slow", world.now, 60)
    with pytest.raises(Superseded, match="Version 3"):
        deployer.commit(MODEL, "slow")
    assert world.ask() == (3, 3.0)


def test_a_commit_that_loses_the_generation_after_its_decision_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register_times(1)
    world.deploy()
    world.register_times(2)
    deployer = world.deployer()
    real = type(world.folder.releases).publish

    def publish(releases: Any, release: Any) -> None:
        from dataclasses import replace

        real(releases, replace(release, deploy_id="other", active_version=1))
        real(releases, release)

    monkeypatch.setattr(type(world.folder.releases), "publish", publish)
    with pytest.raises(Superseded, match="other"):
        deployer.deploy(world.request("d2"))
    assert world.ask() == (1, 1.0)
    assert world.folder.journal.get("d2").state is State.ROLLED_BACK


def crash_in_commit(world: World, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Deploy version 2 and die, as by SIGKILL, when the commit calls ``method`` of the releases."""

    class Killed(BaseException):
        pass

    def killed(*args: Any) -> None:
        raise Killed

    deployer = world.deployer()
    deployer.snapshot(world.request("d2"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d2")
    with monkeypatch.context() as patch:
        patch.setattr(type(world.folder.releases), method, killed)
        with pytest.raises(Killed):
            deployer.commit(MODEL, "d2")


@pytest.mark.parametrize("method", ["publish", "project"])
def test_a_commit_that_died_after_its_decision_is_finished(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    world.register_times(1)
    world.deploy()
    world.register_times(2)
    crash_in_commit(world, monkeypatch, method)
    record = world.deployer().rollback(MODEL, "d2")
    assert record is not None
    assert record.state is State.COMMITTED
    assert json.loads(world.current or "")["active_version"] == 2
    assert world.ask() == (2, 2.0)


# The lease, the fence, and deploys that were abandoned


def test_a_deploy_under_way_keeps_others_away_until_it_is_silent_for_too_long(world: World) -> None:
    world.register_times(1)
    world.deployer().snapshot(world.request("d1"))
    with pytest.raises(LeaseHeld, match="d1"):
        world.deploy("d2")
    assert world.folder.journal.find("d2") is None
    world.later(961)
    assert world.deploy("d3").state is State.COMMITTED
    assert world.folder.journal.get("d1").state is State.ROLLED_BACK


def test_a_deploy_that_has_the_lease_and_no_record_yet_keeps_others_away(world: World) -> None:
    world.register_times(1)
    world.folder.lease.acquire("d1", world.now, 900)
    with pytest.raises(LeaseHeld, match="d1"):
        world.deploy("d2")
    world.later(961)
    assert world.deploy("d3").state is State.COMMITTED


@pytest.mark.parametrize("reached", range(len(STEPS)))
def test_the_next_deploy_settles_an_abandoned_one(world: World, reached: int) -> None:
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for step in STEPS[:reached]:
        getattr(deployer, step)(MODEL, "d1")
    world.later(10_000)
    world.register_times(3)
    world.deploy("d2")
    assert world.ask() == (3, 3.0)
    abandoned = world.folder.journal.get("d1")
    assert abandoned.state is State.ROLLED_BACK
    assert abandoned.failure is not None
    assert abandoned.failure.kind == "crashed"


@pytest.mark.parametrize("step", STEPS)
def test_a_task_that_wakes_up_after_its_rollback_has_no_effect(world: World, step: str) -> None:
    """Airflow starts the rollback of a task marked failed while the task runs on."""
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for before in STEPS[: STEPS.index(step)]:
        getattr(deployer, before)(MODEL, "d1")
    current = world.current
    world.deployer().rollback(MODEL, "d1")
    with pytest.raises(Superseded, match="rolled back"):
        getattr(deployer, step)(MODEL, "d1")
    assert world.current == current
    assert world.ask() == (1, 1.0)
    assert "2" not in world.names


@pytest.mark.parametrize("operation", ["load best_model.v2", "infer best_model.v2", "infer best_model"])
def test_a_rollback_in_the_middle_of_a_step_wins(world: World, operation: str) -> None:
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    name, model = operation.split()
    real: Callable[..., Any] = getattr(world.triton, name)

    def meanwhile(asked: str, *args: Any, **kwargs: Any) -> Any:
        result = real(asked, *args, **kwargs)
        if asked == model and world.folder.journal.get("d1").state is not State.ROLLED_BACK:
            world.deployer().rollback(MODEL, "d1")
        return result

    setattr(world.triton, name, meanwhile)
    with pytest.raises(Superseded):
        world.deploy("d1")
    assert world.ask() == (1, 1.0)
    assert json.loads(world.current or "")["active_version"] == 1
    assert world.folder.journal.get("d1").state is State.ROLLED_BACK


def test_files_that_a_late_process_installed_after_its_rollback_are_not_trusted(world: World) -> None:
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    deployer.materialize(MODEL, "d1")
    world.deployer().rollback(MODEL, "d1")
    (kept,) = (world.root / MODEL).glob("2.failed_*")
    kept.rename(world.root / MODEL / "2")
    (world.root / MODEL / "2/model.onnx").write_bytes(b"torn")
    world.deploy("d2")
    assert world.ask() == (2, 2.0)


def stopped_at_each_call(
    fresh_world: Callable[[], World],
    prepare: Callable[[World], object],
    operate: Callable[[World], object],
    meanwhile: Callable[[World], object],
) -> Iterator[World]:
    """Worlds in which an operation was stopped before its first call, its second, … while something else happened."""
    at = 0
    while True:
        at += 1
        world = fresh_world()
        prepare(world)
        stopper = Stopper(world.triton, at, lambda world=world: meanwhile(world))
        with stopper.at_work(), contextlib.suppress(DeployError):
            operate(world)
        if stopper.count < at:
            assert at > 10
            return
        yield world


def reconcile(world: World) -> None:
    Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)


def begun(world: World, *steps: str) -> None:
    """Version 1 is live; deployment d1 of version 2 has done these steps."""
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for step in steps:
        getattr(deployer, step)(MODEL, "d1")


def files_of(world: World, version: int) -> dict[str, bytes]:
    folder = world.root / MODEL / str(version)
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("step", "before"), [("materialize", ()), ("rollback", STEPS[:2])])
def test_a_process_that_wakes_up_late_leaves_the_files_alone_that_are_live_now(
    fresh_world: Callable[[], World], step: str, before: tuple[str, ...]
) -> None:
    found: dict[str, bytes] = {}

    def another_deploy(world: World) -> None:
        world.later(10_000)
        found.clear()
        if world.deploy("d2", force=True).state is State.COMMITTED:
            found.update(files_of(world, 2))

    for world in stopped_at_each_call(
        fresh_world,
        lambda world: begun(world, *before),
        lambda world: getattr(world.deployer(), step)(MODEL, "d1"),
        another_deploy,
    ):
        assert found
        assert files_of(world, 2) == found
        reconcile(world)
        assert world.ask() == (2, 2.0)


def test_a_deploy_that_was_abandoned_is_settled_before_its_lease_is_taken(
    fresh_world: Callable[[], World],
) -> None:
    """Also when it came and went between somebody's first look and their turn."""

    def one_release(world: World) -> None:
        world.register_times(1)
        world.deploy("d0")

    def another_deploy_is_abandoned(world: World) -> None:
        begun(world, *STEPS[:2])
        world.later(10_000)

    for world in stopped_at_each_call(
        fresh_world,
        one_release,
        lambda world: world.deployer().snapshot(world.request("d2")),
        another_deploy_is_abandoned,
    ):
        world.later(10_000)
        reconcile(world)
        abandoned = world.folder.journal.find("d1")
        assert abandoned is None or abandoned.state is State.ROLLED_BACK


# Steps as Airflow runs them


def test_every_step_may_be_repeated(world: World) -> None:
    world.register_times(1)
    deployer = world.deployer()
    for _ in range(2):
        deployer.snapshot(world.request())
    for step in STEPS:
        first = getattr(deployer, step)(MODEL, "d1")
        assert getattr(world.deployer(), step)(MODEL, "d1") == first
    assert world.ask() == (1, 1.0)
    assert json.loads(world.current or "")["generation"] == 1


def test_steps_out_of_order_are_refused(world: World) -> None:
    world.register_times(1)
    deployer = world.deployer()
    with pytest.raises(NotFound, match="no deployment d1"):
        deployer.load(MODEL, "d1")
    deployer.snapshot(world.request())
    with pytest.raises(IllegalTransition):
        deployer.smoke(MODEL, "d1")
    with pytest.raises(IllegalTransition):
        deployer.commit(MODEL, "d1")


def test_a_retry_after_an_outage_goes_on_where_it_was(world: World) -> None:
    world.register_times(1)
    deployer = world.deployer()
    deployer.snapshot(world.request())
    deployer.materialize(MODEL, "d1")
    world.triton.fail["load"] = unavailable()
    with pytest.raises(Unavailable):
        deployer.load(MODEL, "d1")
    failure = world.folder.journal.get("d1").failure
    assert failure is not None
    assert failure.step == "load"
    world.triton.fail.clear()
    for step in STEPS[1:]:
        getattr(deployer, step)(MODEL, "d1")
    assert world.ask() == (1, 1.0)
    assert world.folder.journal.get("d1").failure is None


def test_a_rollback_without_a_record_does_nothing(world: World) -> None:
    assert world.deployer().rollback(MODEL, "never") is None
    assert list(world.root.iterdir()) == []


def test_a_rollback_before_the_commit_needs_no_triton_and_no_mlflow(world: World) -> None:
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d1")
    for operation in ("load", "unload", "ready_versions", "infer"):
        world.triton.fail[operation] = unavailable()
    world.registry.models.clear()
    record = deployer.rollback(MODEL, "d1")
    assert record is not None
    assert record.state is State.ROLLED_BACK
    assert "2" not in world.names


def test_a_rollback_waits_for_a_triton_that_clients_may_reach_the_candidate_through(world: World) -> None:
    world.register_times(1)
    world.deploy("d0")
    world.register_times(2)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d1")
    world.triton.fail["infer best_model"] = unavailable()
    world.triton.fail["ready_versions best_model"] = unavailable()
    with pytest.raises(Unavailable):
        deployer.commit(MODEL, "d1")
    with pytest.raises(Unavailable):
        deployer.rollback(MODEL, "d1")
    world.triton.fail.clear()
    assert world.ask() == (2, 2.0), "the flip is still there"
    deployer.rollback(MODEL, "d1")
    assert world.ask() == (1, 1.0)


def test_a_committed_deployment_is_not_undone_by_a_rollback(world: World) -> None:
    world.register_times(1)
    world.deploy()
    record = world.deployer().rollback(MODEL, "d1")
    assert record is not None
    assert record.state is State.COMMITTED
    assert world.ask() == (1, 1.0)


def test_a_failed_deploy_of_a_version_that_was_live_keeps_its_files(world: World) -> None:
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    world.register_times(1)
    world.triton.fail["load best_model.v1"] = ArtifactRejected("no", hint="")
    with pytest.raises(ArtifactRejected):
        world.deploy("back")
    assert "1" in world.names, "a release may be reverted to"
    assert world.ask() == (3, 3.0)


def test_a_failed_deploy_of_a_warm_version_keeps_it_warm(world: World) -> None:
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    world.register_times(1)
    world.triton.fail["infer best_model.v1"] = unavailable()
    with pytest.raises(Unavailable):
        world.deploy("back")
    assert world.triton.ready_versions("best_model.v1") == (1,)
    assert "best_model.v1" in world.engines


# What is refused


def test_an_artifact_that_failed_is_refused_until_it_is_forced(world: World) -> None:
    world.register_times(2, expected=7.0)
    with pytest.raises(VerificationFailed):
        world.deploy("d1")
    with pytest.raises(Quarantined, match="smoke"):
        world.deploy("d2")
    # The same bytes as another version, from another place.
    world.register(3, files(times(2.0), triton__golden_json=golden(7.0)))
    with pytest.raises(Quarantined):
        world.deploy("d3")
    with pytest.raises(VerificationFailed):
        world.deploy("d4", force=True)


def test_an_outage_does_not_put_the_artifact_under_suspicion(world: World) -> None:
    world.register_times(1)
    world.triton.fail["load"] = unavailable()
    with pytest.raises(Unavailable):
        world.deploy("d1")
    world.triton.fail.clear()
    assert world.deploy("d2").state is State.COMMITTED


def test_a_breaking_schema_is_refused_unless_it_is_allowed(world: World) -> None:
    world.register_times(1)
    world.deploy("d1")
    world.register(2, files(times(2.0, source="z"), triton__golden_json=golden(2.0, source="z")))
    with pytest.raises(SchemaChanged, match="input x"):
        world.deploy("d2")
    assert world.deploy("d3", allow_schema_change=True).state is State.COMMITTED


def test_external_data_comes_along(world: World) -> None:
    model, data = external("weights.bin", factor=3.0)
    world.register(3, {"model.onnx": model, "weights.bin": data, "MLmodel": b"not needed"})
    world.deploy()
    assert world.ask() == (3, 3.0)
    assert {path.name for path in (world.root / "best_model/3").iterdir()} == {
        "model.onnx", "weights.bin", "manifest.json", "smoke.json",
    }  # fmt: skip
    assert (world.root / "best_model/3/weights.bin").stat().st_mode & 0o777 == 0o644


def test_external_data_that_a_version_shares_with_another_is_no_reason_to_refuse_it(world: World) -> None:
    model, data = external("weights.bin", factor=3.0)
    world.register(3, {"model.onnx": model, "weights.bin": data})
    digest = world.deploy().digest
    world.register(4, {"model.onnx": model, "weights.bin": data}, digest=digest)
    world.deploy("d2")
    assert world.ask() == (4, 3.0)
    three, four = (world.root / f"best_model/{version}/weights.bin" for version in (3, 4))
    assert four.samefile(three)


def test_external_data_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(external("weights.bin")[0])
    with pytest.raises(ArtifactRejected, match=r"weights\.bin is missing: the weights of 'factor' end at"):
        onnx_model.inspect(tmp_path / "model.onnx", max_opset=26, max_ir_version=13)


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        (files(b""), "no graph"),
        (files(b"\xff" * 100), "not an ONNX model"),
        (files(times(2.0).SerializeToString()[:-20]), "only a part|ONNX's checker"),
        (files(external("../../etc/passwd")[0]), "outside the model's own directory"),
        (files(external("/etc/passwd")[0]), "outside the model's own directory"),
        (files(external("weights.bin")[0]), "not among the logged files"),
        (files(times(2.0, opset=27)), "opset 27"),
        (files(unknown_operator()), "ONNX Runtime can't load"),
        (files(times(2.0), triton__golden_json=b"{"), "golden file"),
        (files(times(2.0), triton__golden_json=golden(2.0, source="other")), "input x is missing"),
        (files(times(2.0), triton__config_json=b'{"backend": "python"}'), "backend"),
        (files(times(2.0), triton__config_json=b"[]"), "not a JSON object"),
        ({"other.onnx": b""}, r"no model\.onnx"),
    ],
)
def test_a_bad_artifact_is_refused_before_triton_sees_it(
    world: World, artifact: dict[str, bytes], message: str
) -> None:
    world.register(1, artifact)
    with pytest.raises(ArtifactRejected, match=message) as caught:
        world.deploy()
    assert caught.value.hint
    assert not any(call.startswith("load ") for call in world.triton.calls)
    assert "1" not in world.names if (world.root / MODEL).exists() else True


def test_a_damaged_artifact_does_not_pass_for_what_training_recorded(world: World) -> None:
    world.register(1, files(times(1.0)), digest="0" * 64)
    for deploy_id in ("d1", "d2"):
        # The store, or what came on the way, may be damaged: the next deploy reads it anew.
        with pytest.raises(ArtifactRejected, match="training recorded") as caught:
            world.deploy(deploy_id)
        assert not caught.value.blames_artifact


def test_answers_that_are_not_finite_fail_the_smoke_test(world: World) -> None:
    world.register(1, files(times(float("nan")), triton__golden_json=golden(1.0)))
    with pytest.raises(VerificationFailed, match="not finite"):
        world.deploy()


def test_nan_answers_fail_also_without_golden_inputs(world: World) -> None:
    world.register(1, files(times(float("nan"))))
    with pytest.raises(ArtifactRejected, match=r"own answer to inputs that were invented.* is not finite"):
        world.deploy()


def test_an_answer_of_another_shape_fails_the_smoke_test(world: World) -> None:
    world.register(1, files(times(1.0), triton__golden_json=golden(1.0).replace(b"[1, 2]", b"[2, 1]")))
    with pytest.raises(DeployError, match=r"shape|ndim|rank|dimension"):
        world.deploy()


def test_a_full_disk_is_noticed_before_it_is_full(world: World) -> None:
    world.register_times(1)
    with pytest.raises(StorageFailed, match="must remain"):
        world.deployer(transfer__min_free_bytes=1 << 60).deploy(world.request())
    assert "1" not in world.names


def test_an_artifact_over_the_limit_is_refused(world: World) -> None:
    world.register_times(1)
    with pytest.raises(ArtifactRejected, match="more than the 10"):
        world.deployer(transfer__max_artifact_bytes=10).deploy(world.request())


@pytest.mark.parametrize("model", ["../x", "", "a/b", "a.b", "x" * 101, "-x", "best_model\n"])
def test_a_model_name_never_becomes_a_path_unchecked(world: World, model: str) -> None:
    with pytest.raises(InvalidInput):
        world.deploy(model=model)
    assert list(world.root.iterdir()) == []
    assert world.registry.calls == 0


def test_equal_content_under_a_new_version_is_linked_not_copied(world: World) -> None:
    world.register_times(1)
    digest = world.deploy("d1").digest
    world.register(2, files(times(1.0), triton__golden_json=golden(1.0)), digest=digest)
    reads = len(world.store.reads)
    assert world.deploy("d2").digest == digest
    assert len(world.store.reads) == reads
    assert os.path.samefile(world.root / "best_model/1/model.onnx", world.root / "best_model/2/model.onnx")
    assert world.ask() == (2, 1.0)


# Waiting for the alias


def test_a_deploy_of_one_version_refuses_another_that_the_alias_names(world: World) -> None:
    world.register_times(1)
    with pytest.raises(
        Superseded, match=r"names version 1, and version 2 was to be deployed\. Somebody moved"
    ):
        world.deploy(version=2)
    assert world.current is None
    assert world.deploy(version=1).state is State.COMMITTED
    world.register_times(2)
    with pytest.raises(
        Superseded, match=r"d1 of best_model is of version 1, and version 2 was to be deployed\. A run"
    ):
        world.deploy(version=2)


def test_a_deploy_id_is_for_one_deployment(world: World) -> None:
    """A pipeline with a constant id would be green for ever, and deploy nothing."""
    world.register_times(1)
    began = world.now
    world.deploy()
    world.register_times(2)
    world.later(1)
    with pytest.raises(
        Superseded, match=r"The deploy id d1 .* of version 1, which ended at .*: committed"
    ) as refused:
        world.deploy()
    assert refused.value.exit_code == 6
    with pytest.raises(Superseded, match="ended at"):
        world.deploy(since=world.now + timedelta(hours=1))
    assert world.ask() == (1, 1.0)
    assert world.deploy(since=began).version == 1, (
        "a try of the same run, which could not say that it had ended"
    )
    assert world.deploy("d2").version == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"alias": "B"},
        {"force": True},
        {"allow_schema_change": True},
        {"canary": Canary(shares_percent=(5,), shadow_percent=0, step_s=60)},
    ],
)
def test_a_deploy_id_is_for_what_was_asked_for(world: World, changes: dict[str, Any]) -> None:
    world.register_times(1)
    world.deployer().snapshot(world.request())
    (what,) = changes
    with pytest.raises(Superseded, match=f"was asked for with {what}"):
        world.deployer(bake__prometheus_url="http://p:9090").snapshot(world.request(**changes))
    assert world.deploy().state is State.COMMITTED, "the first one goes on"


@pytest.mark.parametrize("step", ["publish", "project", "write"])
def test_what_was_decided_is_not_undone(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The fact is there, and writing it ended in an error: clients keep the version, and the deploy says what is live."""
    world.register_times(1)
    world.deploy()
    world.register_times(2)
    seen: list[tuple[int, float]] = []
    flips: list[int] = []
    flip = ModelOnTriton.flip

    def noted(self: ModelOnTriton, manifest: Manifest) -> None:
        flips.append(manifest.version)
        flip(self, manifest)

    monkeypatch.setattr(ModelOnTriton, "flip", noted)

    def fail_once(owner: type, name: str, *, after: bool) -> None:
        real = getattr(owner, name)

        def failing(*args: Any, **options: Any) -> Any:
            patch.undo()
            if after:
                real(*args, **options)
            seen.append(world.ask())
            raise StorageFailed("EIO", hint="x")

        patch.setattr(owner, name, failing)

    with pytest.MonkeyPatch.context() as patch:
        if step == "write":
            real = Deployments.move

            def move(self: Deployments, record: Deployment, to: State, **facts: Any) -> Deployment:
                moved = real(self, record, to, **facts)
                if to is State.COMMITTING:
                    patch.undo()
                    seen.append(world.ask())
                    raise StorageFailed("EIO", hint="x")
                return moved

            patch.setattr(Deployments, "move", move)
        else:
            fail_once(Releases, step, after=step == "publish")
        with pytest.raises(StorageFailed):
            world.deploy("d2")
    assert seen == [(2, 2.0)]
    assert flips == [2], "nobody got version 1 again"
    assert world.ask() == (2, 2.0)
    assert world.folder.journal.get("d2").state is State.COMMITTED, "the rollback went on from the decision"
    assert json.loads(world.current or "")["active_version"] == 2
    world.triton.restart(MODEL)
    assert world.ask() == (2, 2.0)


def test_a_commit_that_is_finished_later_is_what_clients_get(world: World) -> None:
    """Somebody put the switch back between the decision and its end."""
    world.register_times(1)
    world.deploy()
    world.register_times(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.deploy("d2")
    Fleet(world.folder, [world.triton], world.settings).restore(world.folder.versions.require(1))
    assert world.ask() == (1, 1.0)
    world.deployer().rollback(MODEL, "d2")
    assert world.ask() == (2, 2.0)


@contextlib.contextmanager
def sleeping_before(owner: type, name: str, meanwhile: Callable[[], object]) -> Iterator[None]:
    """Whoever calls this method first sleeps before, while something happens."""
    with pytest.MonkeyPatch.context() as patch:
        real = getattr(owner, name)

        def woken(*args: Any, **options: Any) -> Any:
            patch.undo()
            meanwhile()
            return real(*args, **options)

        patch.setattr(owner, name, woken)
        yield


def test_a_rollback_that_sleeps_before_its_flip_leaves_the_last_release(world: World) -> None:
    """Its flip is to a version that is not even loaded any more: it takes the public name down before it fails."""
    prepared_for_rollback(deployed(world))

    def others() -> None:
        world.later(10_000)
        for version in (5, 6):
            world.register_times(version)
            assert world.deploy(f"other-{version}").state is State.COMMITTED

    with sleeping_before(ModelOnTriton, "flip", others), pytest.raises(Superseded):
        world.deployer().rollback(MODEL, "begun")
    assert world.ask() == (6, 6.0)
    world.triton.restart(MODEL)
    assert world.ask() == (6, 6.0)


@pytest.mark.parametrize(("owner", "name"), [(Releases, "project"), (ServingFiles, "write_switch")])
def test_a_commit_that_sleeps_before_it_writes_puts_nothing_back(
    world: World, owner: type, name: str
) -> None:
    deployed(world)

    def others() -> None:
        world.later(10_000)
        world.register_times(5)
        assert world.deploy("d5").state is State.COMMITTED

    with sleeping_before(owner, name, others), pytest.raises(Superseded):
        world.deploy("d4")
    assert json.loads(world.current or "")["active_version"] == 5
    world.triton.restart(MODEL)
    assert world.ask() == (5, 5.0)


def test_a_commit_that_sleeps_before_it_retires_takes_nothing_away(world: World) -> None:
    """Somebody goes back to the version that it is about to take out."""
    deployed(world)

    def others() -> None:
        world.later(10_000)
        back = RevertRequest(model=MODEL, deploy_id="back", version=2)
        assert world.deployer().revert(back).state is State.COMMITTED

    with sleeping_before(Fleet, "retire", others):
        world.deploy("d4")
    assert world.ask() == (2, 2.0)
    world.triton.restart(MODEL)
    assert world.ask() == (2, 2.0)


def test_the_alias_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register_times(1)
    found = world.registry.models[MODEL].pop("A")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            world.registry.models[MODEL]["A"] = found

    monkeypatch.setattr("ml_code.triton_deploy.clients.registry.time.sleep", sleep)
    assert world.deployer(mlflow__alias_wait_s=300).deploy(world.request()).state is State.COMMITTED
    assert slept == [5.0, 5.0, 5.0]


def test_an_alias_that_does_not_come_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.registry.models[MODEL] = {}
    slept: list[float] = []
    monkeypatch.setattr("ml_code.triton_deploy.clients.registry.time.sleep", slept.append)
    with pytest.raises(AliasNotFound, match="Waited 12 s"):
        world.deployer(mlflow__alias_wait_s=12).deploy(world.request())
    assert slept == pytest.approx([5.0, 5.0, 2.0], abs=0.1)


def test_an_unknown_model_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_code.triton_deploy.clients.registry.time.sleep", pytest.fail)
    with pytest.raises(NotFound):
        world.deployer(mlflow__alias_wait_s=300).deploy(world.request())


def test_an_output_that_is_an_input_is_refused(world: World) -> None:
    """Triton's ensemble over such a model never answers, and its process ends with clients waiting."""
    world.register_times(1)
    world.deploy()
    model = times(2.0)
    model.graph.output.append(model.graph.input[0])
    world.register(2, files(model, triton__golden_json=golden(2.0)))
    with pytest.raises(
        ArtifactRejected, match=r"'x' is an input of the model and an output .* Put an Identity node"
    ):
        world.deploy("d2")
    assert not [call for call in world.triton.calls if "v2" in call]
    assert world.ask() == (1, 1.0)
