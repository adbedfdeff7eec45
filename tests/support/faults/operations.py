"""The operations that the fault tests kill, cut off and starve, and the check after each: ``whole``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import VerificationFailed
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.rules.deployment import State, advance
from ml_code.triton_deploy.upkeep.gc import GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import FakeTriton
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.world import MODEL, World


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
    serving = Fleet(world.folder, [world.triton], world.settings)
    serving.switch_to(world.folder.versions.require(4))


def prepared_for_reconcile(world: World) -> None:
    prepared_for_rollback(world)
    world.later(10_000)


def collector(world: World) -> GarbageCollector:
    """Keeps as little as can be asked for."""
    settings = changed(
        world.settings,
        retention__keep_releases=0,
        retention__keep_quarantined=0,
        retention__quarantine_days=0.0,
    )
    return GarbageCollector(settings, tritons=[world.triton], clock=lambda: world.now)


def gc(world: World, deployer: Deployer) -> None:
    collector(world).run(MODEL)


def prepared_for_gc(world: World) -> None:
    """gc may remove version 1, the failed version, its record and that of the first deploy."""
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


def copied(world: World, root: Path) -> World:
    """A copy of a healthy world, with a Triton of its own."""
    shutil.copytree(world.root, root, symlinks=True)
    triton = FakeTriton(root)
    triton.restart(MODEL, "best_model.v2")
    return replace(world, root=root, settings=replace(world.settings, repository=root), triton=triton)
