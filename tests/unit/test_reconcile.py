"""From any state back to what was committed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime

import pytest

from ml_code.triton_deploy.errors import Unavailable
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.fleet.index_cache import IndexCache
from ml_code.triton_deploy.fleet.model_on_triton import ModelOnTriton
from ml_code.triton_deploy.repository.lease import Lease
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.version_files import Manifest
from ml_code.triton_deploy.upkeep import status
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.fakes import FakeTriton, unavailable
from tests.support.findings import STEPS, bad_name, snapshot_of, torn_release, unreadable
from tests.support.models import times
from tests.support.world import MODEL, World


def reconcile(world: World, **options: bool) -> Reconciled:
    return Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL, **options)


@pytest.fixture
def deployed(world: World) -> World:
    """Version 2 is live, version 1 is warm."""
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    return world


def healthy(world: World) -> None:
    """What has to be true after every reconcile."""
    assert world.ask() == (2, 2.0)
    assert world.engines == {"best_model.v1", "best_model.v2"}
    assert world.triton.loaded() == {"best_model.v1": (1,), "best_model.v2": (2,), MODEL: (2,)}
    assert json.loads(world.current or "")["active_version"] == 2
    assert not list(world.root.glob("*/.*.tmp"))
    found = reconcile(world)
    assert (found.done, found.problems) == ((), ())
    world.triton.restart(MODEL)
    assert world.ask() == (2, 2.0)


def test_a_healthy_system_is_not_touched(deployed: World) -> None:
    before, calls = snapshot_of(deployed.root), len(deployed.triton.calls)
    found = reconcile(deployed, deep=True)
    assert (found.live, found.done, found.problems) == (2, (), ())
    assert snapshot_of(deployed.root) == before
    assert deployed.triton.calls[calls:] == ["loaded "]


DAMAGE: dict[str, Callable[[World], object]] = {
    "Triton restarted empty": lambda w: w.triton.restart(),
    "Triton restarted with the public model alone": lambda w: w.triton.restart(MODEL),
    "somebody unloaded the public model": lambda w: w.triton.unload(MODEL, 1),
    "somebody unloaded a warm version": lambda w: w.triton.unload("best_model.v1", 1),
    "current.json is gone": lambda w: (w.root / MODEL / "current.json").unlink(),
    "current.json is torn": lambda w: (w.root / MODEL / "current.json").write_text('{"mod'),
    "current.json is of another release": lambda w: (w.root / MODEL / "current.json").write_text(
        (w.root / MODEL / "releases/000001.json").read_text()
    ),
    "the switch's configuration is gone": lambda w: (w.root / MODEL / "config.pbtxt").unlink(),
    "the switch's configuration was edited": lambda w: (w.root / MODEL / "config.pbtxt").write_text("x"),
    "an engine is gone": lambda w: shutil.rmtree(w.root / "best_model.v1"),
    "an engine was not written to its end": lambda w: (w.root / "best_model.v1/1").unlink(),
    "a write beside an engine never ended": lambda w: (
        w.root / "best_model.v2/.config.pbtxt.1a2b3c4d.tmp"
    ).write_text("na"),
    "a staging directory was left": lambda w: (w.root / MODEL / ".staging-d2").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_damaged_is_put_right(deployed: World, damage: str) -> None:
    DAMAGE[damage](deployed)
    found = reconcile(deployed)
    assert found.done
    assert found.problems == ()
    healthy(deployed)


def test_a_load_that_finished_late_is_taken_out(deployed: World) -> None:
    deployed.register_times(3)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d3"))
    deployer.materialize(MODEL, "d3")
    deployer.load(MODEL, "d3")
    zombie = deployed.triton._engines["best_model.v3"]
    deployer.rollback(MODEL, "d3")
    deployed.triton._engines["best_model.v3"] = zombie
    assert reconcile(deployed).done == ("unload best_model.v3 from fake:1",)
    healthy(deployed)


@pytest.mark.parametrize("reached", range(len(STEPS)))
def test_an_abandoned_deploy_is_undone(deployed: World, reached: int) -> None:
    deployed.register_times(3)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d3"))
    for step in STEPS[:reached]:
        getattr(deployer, step)(MODEL, "d3")
    found = reconcile(deployed)
    assert (found.under_way, found.done) == ("d3", ())
    deployed.later(10_000)
    assert reconcile(deployed).done[0] == "settle the abandoned deployment d3"
    assert deployed.folder.journal.get("d3").state is State.ROLLED_BACK
    healthy(deployed)


def test_an_abandoned_flip_is_undone(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the flip and the decision: clients get a version that nobody committed."""

    class Killed(BaseException):
        pass

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    deployed.register_times(3)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d3"))
    for step in STEPS[:-1]:
        getattr(deployer, step)(MODEL, "d3")
    with monkeypatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.deploy.step.RunningStep.keep_lease", lambda self: None)
        patch.setattr("ml_code.triton_deploy.fleet.smoke.SmokeTest.largest_error", killed)
        patch.setattr(
            "ml_code.triton_deploy.deploy.last_release.LastRelease.try_to_restore", lambda self: None
        )
        with pytest.raises(Killed):
            deployer.commit(MODEL, "d3")
    assert deployed.ask() == (3, 3.0)
    deployed.later(10_000)
    reconcile(deployed)
    healthy(deployed)


def test_a_reconcile_that_sleeps_says_what_it_did_in_the_end(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes before it makes a Triton serve version 2; version 3 was released meanwhile."""
    deployed.triton.load("best_model.v1", 1)
    serving = Fleet(deployed.folder, [deployed.triton], deployed.settings)
    serving.restore(deployed.folder.versions.require(1))
    assert deployed.ask() == (1, 1.0)
    real = ModelOnTriton.restore

    def woken(self: ModelOnTriton, manifest: Manifest | None) -> None:
        monkeypatch.undo()
        deployed.later(10_000)
        deployed.register_times(3)
        assert deployed.deploy("d3").state is State.COMMITTED
        real(self, manifest)

    monkeypatch.setattr(ModelOnTriton, "restore", woken)
    found = reconcile(deployed)
    assert deployed.ask() == (3, 3.0)
    assert found.live == 3
    assert found.done == ("bring everything to a release that came meanwhile",)
    deployed.triton.restart(MODEL)
    assert deployed.ask() == (3, 3.0)


def test_a_repair_that_does_not_hold_is_a_problem_and_not_done(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else unloads the version as soon as it is loaded."""
    deployed.triton.restart()
    real = deployed.triton.load

    def load(model: str, timeout_s: float, config: str | None = None) -> None:
        real(model, timeout_s, config)
        if model == "best_model.v1":
            deployed.triton.unload(model, 1)

    monkeypatch.setattr(deployed.triton, "load", load)
    found = reconcile(deployed)
    assert found.problems == ("load version 1 into fake:1: it is not so yet",)
    assert "load version 1 into fake:1" not in found.done
    assert "load version 2 into fake:1" in found.done


def test_a_first_deploy_that_was_abandoned_leaves_no_model(world: World) -> None:
    world.register_times(1)
    deployer = world.deployer()
    deployer.snapshot(world.request("d1"))
    for step in STEPS[:3]:
        getattr(deployer, step)(MODEL, "d1")
    world.later(10_000)
    reconcile(world)
    assert world.triton.loaded() == {}
    assert world.engines == set()
    assert (reconcile(world).live, reconcile(world).done) == (None, ())


def test_a_triton_that_is_away_is_reported_and_the_others_are_served(deployed: World) -> None:
    away = FakeTriton(deployed.root, "fake:2")
    for operation in ("loaded", "ready_versions", "load"):
        away.fail[operation] = unavailable()
    deployed.triton.restart()
    found = Reconciler(deployed.settings, tritons=[away, deployed.triton], clock=lambda: deployed.now).run(
        MODEL
    )
    assert len(found.problems) == 1
    healthy(deployed)


def test_a_repair_that_fails_is_reported(deployed: World) -> None:
    deployed.triton.restart()
    deployed.triton.fail["load best_model.v1"] = unavailable()
    found = reconcile(deployed)
    assert len(found.problems) == 1
    assert "version 1" in found.problems[0]
    assert deployed.ask() == (2, 2.0), "the live version does not wait for a warm one"


def test_damaged_files_are_reported(deployed: World) -> None:
    path = deployed.root / "best_model/2/model.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert "another size" in reconcile(deployed).problems[0]
    path.write_bytes(times(9.0).SerializeToString()[: len(content)].ljust(len(content), b"x"))
    assert reconcile(deployed).problems == ()
    assert "other bytes" in reconcile(deployed, deep=True).problems[0]


def test_a_live_version_whose_files_are_gone_goes_on_being_served(deployed: World) -> None:
    shutil.rmtree(deployed.root / "best_model/2")
    before = deployed.triton.loaded()
    found = reconcile(deployed)
    assert found.done == ()
    assert "gone" in found.problems[0]
    assert deployed.triton.loaded() == before
    assert deployed.ask() == (2, 2.0)


def test_a_dry_run_changes_nothing(deployed: World) -> None:
    deployed.triton.restart()
    (deployed.root / MODEL / "current.json").unlink()
    before, calls = snapshot_of(deployed.root), len(deployed.triton.calls)
    found = reconcile(deployed, dry_run=True)
    assert len(found.done) == 4
    assert snapshot_of(deployed.root) == before
    assert set(deployed.triton.calls[calls:]) == {"loaded "}
    reconcile(deployed)
    healthy(deployed)


# All models of a repository


def reconcile_all(world: World, *models: str, **options: bool) -> dict[str, Reconciled]:
    reconciler = Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now)
    return {result.model: result for result in reconciler.run_all(models, **options)}


def test_who_looks_at_many_models_asks_a_triton_once(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "tritons_of", lambda settings: [deployed.triton])
    calls, survey = len(deployed.triton.calls), IndexCache(deployed.root)
    assert all(model_status(deployed.settings, MODEL, survey=survey).agrees for _ in range(3))
    assert deployed.triton.calls[calls:] == ["loaded "]
    deployed.register_times(3)
    deployed.deploy("d3")
    calls = len(deployed.triton.calls)
    assert model_status(deployed.settings, MODEL, survey=survey).agrees, "it was deployed since the survey"
    assert deployed.triton.calls[calls:] == ["loaded "]
    deployed.triton.fail["loaded"] = unavailable()
    calls = len(deployed.triton.calls)
    assert not model_status(deployed.settings, MODEL, survey=IndexCache(deployed.root)).agrees
    assert deployed.triton.calls[calls:] == ["loaded "], "a Triton that is away is not waited for twice"


@pytest.mark.parametrize("break_one", [torn_release, bad_name, unreadable])
def test_a_model_that_can_not_be_reconciled_keeps_no_other_waiting(
    deployed: World, break_one: Callable[[World], None]
) -> None:
    break_one(deployed)
    deployed.triton.restart()
    found = reconcile_all(deployed)
    (broken,) = found.keys() - {MODEL}
    assert broken < MODEL, "it comes first"
    assert found[broken].live is None
    (problem,) = found[broken].problems
    assert problem.startswith("not reconciled: ")
    assert found[MODEL].problems == ()
    assert deployed.ask() == (2, 2.0)


def test_only_the_models_that_were_named_are_reconciled(deployed: World) -> None:
    bad_name(deployed)
    assert reconcile_all(deployed, MODEL).keys() == {MODEL}


def empty_models(world: World, *names: str) -> None:
    for name in names:
        (world.root / name / "deployments").mkdir(parents=True)


def test_a_triton_is_asked_once_for_all_models(deployed: World) -> None:
    empty_models(deployed, "another", "one_more")
    calls = len(deployed.triton.calls)
    found = reconcile_all(deployed)
    assert len(found) == 3
    assert all((result.done, result.problems) == ((), ()) for result in found.values())
    assert deployed.triton.calls[calls:] == ["loaded "]


def test_what_was_seen_before_a_deploy_ended_is_no_reason_to_touch_anything(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models come one after the other: what is seen for all of them at once is old when the last one's turn comes."""
    empty_models(deployed, "another")
    deployed.register_times(3)
    leave_note, leases = Reconciler._leave_note, []

    def deploy_before_the_next(self: Reconciler, result: Reconciled) -> None:
        leave_note(self, result)
        if result.model == "another":
            deployed.deploy("d3")
            monkeypatch.setattr(Lease, "acquire", lambda *arguments: leases.append(arguments))

    monkeypatch.setattr(Reconciler, "_leave_note", deploy_before_the_next)
    found = reconcile_all(deployed)[MODEL]
    assert (found.live, found.done, found.problems) == (3, (), ())
    assert leases == [], "a deploy that begins in this moment is not refused"
    assert deployed.ask() == (3, 3.0)


def test_what_happens_while_one_model_is_repaired_is_seen_at_the_next(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.registry.models["z_later"] = deployed.registry.models[MODEL]
    deployed.deploy("z1", model="z_later")
    deployed.triton.unload(MODEL, 1)
    load = deployed.triton.load

    def load_and_lose(model: str, timeout_s: float, config: str | None = None) -> None:
        load(model, timeout_s, config)
        if model == MODEL:
            deployed.triton.unload("z_later", 1)

    monkeypatch.setattr(deployed.triton, "load", load_and_lose)
    found = reconcile_all(deployed)
    assert [found[name].done for name in (MODEL, "z_later")] == [("make fake:1 serve version 2",)] * 2


def test_what_was_put_right_before_the_lease_was_taken_is_not_done_again(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed.triton.unload(MODEL, 1)
    acquire = Lease.acquire

    def too_late(self: Lease, deploy_id: str, now: datetime, duration_s: float) -> None:
        deployed.triton.load(MODEL, 1)
        acquire(self, deploy_id, now, duration_s)

    monkeypatch.setattr(Lease, "acquire", too_late)
    assert reconcile(deployed).done == ()
    monkeypatch.undo()
    healthy(deployed)


def test_a_settling_that_failed_is_tried_again_as_soon_as_triton_is_back(deployed: World) -> None:
    """Who gives up keeps nobody waiting for a lease: not the next reconcile, and not the next deploy."""
    deployed.register_times(3)
    deployed.triton.fail.update({f"load {MODEL}": unavailable(), "loaded": unavailable()})
    deployed.triton.fail["ready_versions best_model"] = unavailable()
    with pytest.raises(Unavailable):
        deployed.deploy("d3")
    assert len(reconcile(deployed).problems) >= 1
    deployed.triton.fail.clear()
    assert "settle the abandoned deployment d3" in reconcile(deployed).done
    assert deployed.folder.journal.get("d3").state is State.ROLLED_BACK
    healthy(deployed)


def test_a_deploy_whose_rollback_failed_is_settled_by_the_next_one(deployed: World) -> None:
    deployed.register_times(3)
    deployed.triton.fail.update({f"load {MODEL}": unavailable(), "ready_versions best_model": unavailable()})
    with pytest.raises(Unavailable):
        deployed.deploy("d3")
    with pytest.raises(Unavailable, match="does not answer"):
        deployed.deploy("d4")
    deployed.triton.fail.clear()
    assert deployed.deploy("d5").state is State.COMMITTED
    assert deployed.folder.journal.get("d3").state is State.ROLLED_BACK
    assert deployed.ask() == (3, 3.0)


def test_a_reconcile_that_is_killed_keeps_nobody_waiting_for_long(deployed: World) -> None:
    """It has recorded nothing that would have to be settled."""
    deployed.triton.restart()

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    deployed.triton.load = killed  # type: ignore[method-assign]
    release, Lease.release = Lease.release, killed  # type: ignore[assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            reconcile(deployed)
    finally:
        Lease.release = release  # type: ignore[method-assign]
        del deployed.triton.load
    assert reconcile(deployed).under_way.startswith("reconcile-")
    deployed.later(deployed.settings.triton.load_timeout_s + 61)
    assert reconcile(deployed).problems == ()
    healthy(deployed)
