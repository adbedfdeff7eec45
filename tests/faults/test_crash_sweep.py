"""A process is killed at every file-system call and every call to Triton that it makes, then reconciled.

What has to hold afterwards is written once, in ``whole``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ml_code.triton_deploy.collect import Collector
from ml_code.triton_deploy.deployer import Deployer
from ml_code.triton_deploy.errors import VerificationFailed
from ml_code.triton_deploy.intake import RevertRequest
from ml_code.triton_deploy.reconcile import Reconciler
from ml_code.triton_deploy.records import State, advance
from ml_code.triton_deploy.serving import Serving
from tests.fakes import FakeTriton
from tests.faults.killing import Killed, Killer
from tests.models import files, golden, times
from tests.world import MODEL, World

DEADLY = 100_000
"""More calls than any operation makes."""


def deploy(world: World, deployer: Deployer) -> None:
    deployer.deploy(world.request("victim"))


def revert(world: World, deployer: Deployer) -> None:
    deployer.revert(RevertRequest(model=MODEL, deploy_id="victim", version=1, actor="me"))


def rollback(world: World, deployer: Deployer) -> None:
    deployer.rollback(MODEL, "begun")


def reconcile(world: World, deployer: Deployer) -> None:
    Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)


def prepared_for_rollback(world: World) -> None:
    """Version 4 is flipped to and not committed."""
    deployer = world.deployer()
    deployer.snapshot(world.request("begun"))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, "begun")
    record = world.folder.journal.get("begun")
    world.folder.journal.append(advance(record, State.SWITCHING, world.now), record)
    serving = Serving(MODEL, world.folder.versions, [world.triton], world.settings)
    serving.switch_to(world.folder.versions.need(4))


def prepared_for_reconcile(world: World) -> None:
    prepared_for_rollback(world)
    world.later(10_000)


def collector(world: World) -> Collector:
    """Keeps as little as can be asked for."""
    settings = replace(world.settings, keep_releases=0, keep_quarantined=0, quarantine_days=0.0)
    return Collector(settings, tritons=[world.triton], clock=lambda: world.now)


def gc(world: World, deployer: Deployer) -> None:
    collector(world).run(MODEL)


def prepared_for_gc(world: World) -> None:
    """Version 1, what failed, its record and that of the first deploy may go."""
    broken_version(world)
    with pytest.raises(VerificationFailed):
        world.deploy("failed")
    world.later(200_000)


def nothing(world: World) -> None:
    pass


def broken_version(world: World) -> None:
    """The deploy fails at its smoke test and rolls itself back."""
    world.register(4, files(times(4.0), triton__golden_json=golden(7.0)))


OPERATIONS: dict[str, tuple[Callable[[World], None], Callable[[World, Deployer], None], set[int]]] = {
    "deploy": (nothing, deploy, {3, 4}),
    "deploy of a broken version": (broken_version, deploy, {3}),
    "revert": (nothing, revert, {3, 1}),
    "rollback": (prepared_for_rollback, rollback, {3}),
    "reconcile": (prepared_for_reconcile, reconcile, {3}),
    "gc": (prepared_for_gc, gc, {3}),
}


def whole(world: World, allowed: set[int], releases_before: list[str]) -> None:
    """Old or new; current.json whole; no release lost; Triton agrees; nothing left over; the next deploy works."""
    live = world.folder.releases.latest()
    assert live is not None
    assert live.active_version in allowed
    assert json.loads(world.current or "")["generation"] == live.generation
    assert world.ask() == (live.active_version, float(live.active_version))
    history = [path.read_text() for path in sorted((world.root / MODEL / "releases").glob("*.json"))]
    assert history[: len(releases_before)] == releases_before
    assert len(history) == live.generation
    assert world.engines == {f"best_model.v{version}" for version in live.loaded_versions}
    for version in {*live.loaded_versions, live.previous_version or live.active_version}:
        assert [*world.folder.versions.damage(version, deep=True)] == [], (
            "what serves and what it replaced stay"
        )
    assert not [name for name in world.names if name.startswith(".")], "nothing is left in staging"
    if live.active_version != 4:
        assert "4" not in world.names, "what was not committed does not lie among the versions"
    world.triton.restart(MODEL)
    assert world.ask() == (live.active_version, float(live.active_version))
    world.register_times(5)
    assert world.deploy("next").state is State.COMMITTED
    assert world.ask() == (5, 5.0)


def deployed(world: World) -> World:
    """Versions 1 to 3 were deployed, version 4 is registered."""
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    world.register_times(4)
    return world


def copied(world: World, root: Path) -> World:
    """A copy of a healthy world, with a Triton of its own."""
    shutil.copytree(world.root, root, symlinks=True)
    triton = FakeTriton(root)
    triton.restart(MODEL, "best_model.v2")
    return replace(world, root=root, settings=replace(world.settings, repository=root), triton=triton)


def attempt(world: World, name: str, at: int) -> bool:
    """Run an operation that is killed at its ``at``-th call, reconcile, check; False when it ended before."""
    prepare, operate, allowed = OPERATIONS[name]
    world.register_times(4)
    prepare(world)
    before = [path.read_text() for path in sorted((world.root / MODEL / "releases").glob("*.json"))]
    killer = Killer(world.triton, at)
    try:
        with killer.at_work():
            operate(world, world.deployer())
    except (Killed, Exception):
        pass
    world.later(10_000)
    reconcile(world, world.deployer())
    if operate is gc:
        collected(world)
    whole(world, allowed, before)
    return killer.struck


def collected(world: World) -> None:
    """A gc that was killed is done by the next one."""
    gc(world, world.deployer())
    assert {name for name in world.names if name[0].isdigit()} == {"2", "3"}
    assert [record.deploy_id for record in world.folder.journal.all()] == ["d2", "d3"]
    assert collector(world).run(MODEL).removed == ()


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power: what fsync does is not looked at, only that a process may die at it."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new_release(
    name: str, world: World, tmp_path: Path
) -> None:
    points = 0
    base = deployed(world)
    while attempt(copied(base, tmp_path / f"copy-{points}"), name, points + 1):
        points += 1
        assert points < DEADLY
    print(f"{name}: {points} calls, killed at each")
    assert points > 10
