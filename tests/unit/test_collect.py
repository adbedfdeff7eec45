"""What the retention does to the repository's files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError, NotFound, Quarantined, Superseded
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.rules.gc_rules import Kind
from ml_code.triton_deploy.upkeep.gc import Collected, GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from tests.support.fakes import unavailable
from tests.support.findings import bad_name, snapshot_of, torn_release, unreadable
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.world import MODEL, World

DAY_S = 86_400


def gc(world: World, *, dry_run: bool = False, **policy: Any) -> Collected:
    kept = {
        "retention__keep_releases": 2,
        "retention__keep_quarantined": 1,
        "retention__quarantine_days": 7.0,
    } | policy
    settings = changed(world.settings, **kept)
    return GarbageCollector(settings, tritons=[world.triton], clock=lambda: world.now).run(
        MODEL, dry_run=dry_run
    )


def reconcile(world: World) -> Reconciled:
    return Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)


def revert(world: World, version: int) -> Deployment:
    request = RevertRequest(model=MODEL, deploy_id=f"back-to-{version}", version=version, actor="me")
    return world.deployer().revert(request)


def fail(world: World, version: int) -> None:
    world.register_times(version, expected=version + 0.5)
    with pytest.raises(DeployError):
        world.deploy(f"d{version}")


def directories(world: World) -> set[str]:
    """Versions and quarantined directories; without the time of the latter."""
    return {
        name.partition("_")[0] for name in world.names if name[0].isdigit() or name.startswith((".l", ".t"))
    }


@pytest.fixture
def deployed(world: World) -> World:
    """Versions 1 to 4 were deployed, a day apart; 4 is live, 3 is warm."""
    for version in (1, 2, 3, 4):
        world.register_times(version)
        world.deploy(f"d{version}")
        world.later(DAY_S)
    return world


def test_versions_that_no_release_of_the_last_ones_needs_are_removed(deployed: World) -> None:
    files = [path for v in (1, 2) for path in (deployed.root / MODEL / str(v)).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    collected = gc(deployed)
    assert [(removed.kind, removed.name) for removed in collected.removed] == [
        (Kind.VERSION, "1"),
        (Kind.VERSION, "2"),
    ]
    assert collected.freed_bytes == size
    assert (collected.live, collected.problems, collected.under_way) == (4, (), "")
    assert directories(deployed) == {"3", "4"}
    assert deployed.ask() == (4, 4.0)
    deployed.triton.restart(MODEL)
    assert deployed.ask() == (4, 4.0)
    assert reconcile(deployed).problems == ()
    assert len(list(deployed.folder.releases.history())) == 4, "the history stays whole"
    assert revert(deployed, 3).state is State.COMMITTED


def test_what_was_removed_is_not_reverted_to_and_can_be_deployed_again(deployed: World) -> None:
    gc(deployed)
    with pytest.raises(NotFound, match="Version 1 of best_model was live") as refused:
        revert(deployed, 1)
    assert "retention" in refused.value.message
    assert "deploy best_model --alias" in refused.value.hint
    assert deployed.ask() == (4, 4.0)
    deployed.register_times(1)
    assert deployed.deploy("again").state is State.COMMITTED
    assert deployed.ask() == (1, 1.0)


def test_nothing_to_remove_touches_no_file(deployed: World) -> None:
    gc(deployed)
    before = snapshot_of(deployed.root)
    collected = gc(deployed)
    assert collected.removed == ()
    assert snapshot_of(deployed.root) == before
    assert [(kept.name, kept.why) for kept in collected.kept if kept.kind is Kind.VERSION] == [
        ("3", "warm, replaced by the live version, release 3"),
        ("4", "live, release 4"),
    ]


def test_a_dry_run_says_the_same_and_changes_nothing(deployed: World) -> None:
    fail(deployed, 5)
    deployed.later(8 * DAY_S)
    before = snapshot_of(deployed.root)
    planned = gc(deployed, dry_run=True)
    assert snapshot_of(deployed.root) == before
    done = gc(deployed)
    assert (planned.removed, planned.kept) == (done.removed, done.kept)
    assert {removed.kind for removed in done.removed} == set(Kind)


def test_a_quarantine_that_was_collected_refuses_nothing_any_more(deployed: World) -> None:
    fail(deployed, 5)
    gc(deployed)
    with pytest.raises(Quarantined):
        deployed.deploy("again")
    deployed.later(8 * DAY_S)
    gc(deployed)
    assert directories(deployed) == {"3", "4"}
    with pytest.raises(DeployError) as refused:
        deployed.deploy("once-more")
    assert not isinstance(refused.value, Quarantined)
    assert directories(deployed) == {"3", "4", "5.failed"}


def test_only_the_newest_quarantines_stay(deployed: World) -> None:
    for version in (5, 6, 7):
        fail(deployed, version)
        deployed.later(DAY_S + 1)
    gc(deployed)
    assert directories(deployed) == {"3", "4", "7.failed"}
    assert deployed.folder.journal.find("d7") is not None


def test_records_of_deployments_go_with_what_they_are_of(deployed: World) -> None:
    fail(deployed, 5)
    deployed.later(5 * DAY_S)
    gc(deployed)
    ids = [record.deploy_id for record in deployed.folder.journal.all()]
    assert ids == ["d3", "d4", "d5"], "d1 and d2 are eight days old"
    deployed.later(3 * DAY_S)
    gc(deployed)
    assert [record.deploy_id for record in deployed.folder.journal.all()] == ["d3", "d4"]


def test_a_version_that_a_late_process_left_goes_after_a_while(deployed: World) -> None:
    late = deployed.root / MODEL / "9"
    shutil.copytree(deployed.root / MODEL / "1", late)
    manifest = json.loads((late / "manifest.json").read_text()) | {"deploy_id": "late", "version": 9}
    (late / "manifest.json").write_text(json.dumps(manifest))
    installed = deployed.now.timestamp()
    os.utime(late, (installed, installed))
    deployed.later(6 * DAY_S)
    gc(deployed)
    assert "9" in deployed.names
    deployed.later(2 * DAY_S)
    gc(deployed)
    assert "9" not in deployed.names


def test_bytes_that_another_version_shares_are_not_freed(world: World) -> None:
    artifact = files(times(1.0), triton__golden_json=golden(1.0))
    world.register(1, artifact)
    digest = world.deploy("d1").digest
    world.register(2, artifact, digest=digest)
    world.deploy("d2")
    world.register_times(3)
    world.deploy("d3")
    own = sum((world.root / MODEL / "1" / name).stat().st_size for name in ("manifest.json", "smoke.json"))
    (removed,) = gc(world, retention__keep_releases=1).removed
    assert (removed.name, removed.size_bytes) == ("1", own)
    assert (world.root / MODEL / "2/model.onnx").stat().st_nlink == 1


# Beside a deploy


def test_a_deploy_under_way_is_left_alone(deployed: World) -> None:
    deployed.register_times(5)
    deployed.deployer().snapshot(deployed.request("d5"))
    before = snapshot_of(deployed.root)
    collected = gc(deployed)
    assert (collected.under_way, collected.removed, collected.live) == ("d5", (), 4)
    assert snapshot_of(deployed.root) == before
    for step in ("materialize", "load", "ready", "smoke", "commit"):
        getattr(deployed.deployer(), step)(MODEL, "d5")
    assert gc(deployed).under_way == ""


def test_a_deploy_that_begins_meanwhile_is_left_alone(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lease."""
    deployed.register_times(5)
    judge = GarbageCollector._judge

    def deploy_begins(self: GarbageCollector, folder: Any) -> Any:
        verdicts = judge(self, folder)
        deployed.deployer().snapshot(deployed.request("d5"))
        return verdicts

    monkeypatch.setattr(GarbageCollector, "_judge", deploy_begins)
    assert gc(deployed).under_way == "d5"
    assert {"1", "2"} <= directories(deployed)


def test_an_abandoned_deploy_is_settled_first(deployed: World) -> None:
    deployed.register_times(5)
    deployed.deployer().snapshot(deployed.request("d5"))
    deployed.deployer().materialize(MODEL, "d5")
    deployed.later(10_000)
    assert gc(deployed, dry_run=True).under_way == ""
    assert deployed.folder.journal.get("d5").state is State.MATERIALIZED
    gc(deployed)
    assert deployed.folder.journal.get("d5").state is State.ROLLED_BACK
    assert directories(deployed) == {"3", "4", "5.failed"}


def test_a_deploy_that_cannot_be_settled_is_a_problem_and_nothing_goes(deployed: World) -> None:
    deployed.register_times(5)
    deployer = deployed.deployer()
    deployer.snapshot(deployed.request("d5"))
    for step in ("materialize", "load", "ready", "smoke"):
        getattr(deployer, step)(MODEL, "d5")
    deployed.triton.fail["infer best_model"] = unavailable()
    deployed.triton.fail["ready_versions best_model"] = unavailable()
    with pytest.raises(DeployError):
        deployer.commit(MODEL, "d5")
    deployed.later(10_000)
    collected = gc(deployed)
    assert "does not answer" in collected.problems[0]
    assert collected.removed == ()
    assert {"1", "2"} <= directories(deployed)


@contextmanager
def stopped_before_rename(world: World, monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> Iterator[None]:
    """The gc is stopped right before it takes version 2 away."""
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self == world.root / MODEL / "2" and Path(target).name.startswith(".leaving-"):
            monkeypatch.setattr(Path, "rename", rename)
            meanwhile()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    yield
    monkeypatch.setattr(Path, "rename", rename)


def test_a_gc_that_wakes_up_late_takes_nothing_away(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped beyond its lease, and what it was about to remove is live now."""

    def meanwhile() -> None:
        deployed.later(10_000)
        assert revert(deployed, 2).state is State.COMMITTED

    with stopped_before_rename(deployed, monkeypatch, meanwhile):
        collected = gc(deployed)
    assert "lost its lease" in collected.problems[0]
    assert [removed.name for removed in collected.removed] == ["1"]
    assert directories(deployed) == {"2", "3", "4"}
    deployed.triton.restart(MODEL)
    assert deployed.ask() == (2, 2.0)


def test_what_a_late_gc_took_away_before_it_died_comes_back(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def meanwhile() -> None:
        deployed.later(10_000)
        revert(deployed, 2)

    def killed(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, stopped_before_rename(deployed, patch, meanwhile):
        patch.setattr("ml_code.triton_deploy.repository.lease.Lease.require", killed)
        patch.setattr("ml_code.triton_deploy.repository.removals.Removals.settle", killed)
        # Version 1 goes first.
        shutil.rmtree(deployed.root / MODEL / "1")
        with pytest.raises(Killed):
            gc(deployed)
    assert "2" not in deployed.names
    assert reconcile(deployed).problems == ()
    deployed.triton.restart(MODEL)
    assert deployed.ask() == (2, 2.0)
    assert not any(name.startswith(".") for name in deployed.names)


def test_what_was_deployed_again_meanwhile_stays_when_its_old_files_go(deployed: World) -> None:
    leaving = deployed.root / MODEL / ".leaving-entry-2-0badcafe"
    (deployed.root / MODEL / "2").rename(leaving)
    deployed.register_times(2)
    deployed.deploy("again")
    reconcile(deployed)
    assert not leaving.exists()
    assert deployed.folder.versions.require(2).deploy_id == "again"
    reconcile(deployed)
    assert not any(name.startswith(".") for name in deployed.names)


def test_a_directory_that_a_reconcile_put_back_is_not_removed(deployed: World) -> None:
    removals = deployed.folder.removals
    source = deployed.root / MODEL / "2"
    with pytest.raises(Superseded, match="put back"):
        removals.remove(source, lambda: [removals.settle(path) for path in removals.undecided()])
    assert (source / "model.onnx").is_file()


# Files that somebody has open, on NFS


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EBUSY])
def test_a_file_that_is_open_elsewhere_is_no_error_and_goes_the_next_time(
    deployed: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rmdir = os.rmdir

    def busy(path: Any, *args: Any, **kwargs: Any) -> None:
        if ".trash-entry-1-" in str(path):
            raise OSError(number, os.strerror(number))
        rmdir(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        collected = gc(deployed)
        assert (collected.problems, len(collected.still_open)) == ((), 1)
        assert directories(deployed) == {"3", "4"} | set(collected.still_open)
        assert reconcile(deployed).done == (), "it can wait"
        assert gc(deployed).still_open == collected.still_open
    assert gc(deployed).still_open == ()
    assert directories(deployed) == {"3", "4"}


def test_what_a_gc_left_in_the_trash_a_reconcile_removes(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.repository.durable.remove_tree", lambda path: False)
        assert len(gc(deployed).still_open) == 2
    assert len(reconcile(deployed).done) == 2
    assert directories(deployed) == {"3", "4"}
    assert reconcile(deployed).done == ()


def test_what_cannot_be_removed_is_a_problem_and_the_rest_goes(
    deployed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == "1":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    collected = gc(deployed)
    assert "Let the deployer's user write" in collected.problems[0]
    assert [removed.name for removed in collected.removed] == ["2"]
    assert directories(deployed) == {"1", "3", "4"}


def test_a_record_that_cannot_be_read_keeps_everything(deployed: World) -> None:
    (deployed.root / MODEL / "deployments/d3/0099.json").write_text("{")
    collected = gc(deployed)
    assert "0099.json" in collected.problems[0]
    assert directories(deployed) == {"1", "2", "3", "4"}


@pytest.mark.parametrize("break_one", [torn_release, bad_name, unreadable])
def test_a_model_that_can_not_be_collected_keeps_no_other_waiting(
    deployed: World, break_one: Callable[[World], None]
) -> None:
    break_one(deployed)
    settings = changed(deployed.settings, retention__keep_releases=2)
    collector = GarbageCollector(settings, tritons=[deployed.triton], clock=lambda: deployed.now)
    found = {collected.model: collected for collected in collector.run_all()}
    (broken,) = found.keys() - {MODEL}
    assert broken < MODEL, "it comes first"
    assert found[broken].problems
    assert found[MODEL].problems == ()
    assert [removed.name for removed in found[MODEL].removed] == ["1", "2"]
