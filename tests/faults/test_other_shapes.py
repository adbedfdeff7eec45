"""A deploy whose shapes Triton replaces is killed, or put to sleep, at every call that it makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.schema import Schema
from tests.support.faults.killed_process import Killed, Killer, Sleeper
from tests.support.faults.operations import copied, reconcile, whole
from tests.support.faults.sweep_samples import EXTENT, Sweep
from tests.support.models import files, golden, open_columns
from tests.support.world import MODEL, World, deployed

THERE = {"y": (-1, 2)}
ALL_STEPS = ("load", "ready", "smoke", "commit")
STEP = 6
"""A sample has one point of so many."""


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def materialized(base: World, root: Path) -> World:
    """A copy of a healthy world, with version 4 before its load: its shape is open here, and not in Triton."""
    world = copied(base, root)
    world.register(4, files(open_columns(4.0), triton__golden_json=golden(4.0)))
    world.triton.shapes = THERE
    deployer = world.deployer()
    # Version 3 has the shape that Triton finds, which the deployer does not know before the load.
    deployer.snapshot(world.request("victim", allow_schema_change=True))
    deployer.materialize(MODEL, "victim")
    return world


def run(deployer: Deployer) -> None:
    for step in ALL_STEPS:
        getattr(deployer, step)(MODEL, "victim")


def agrees(world: World) -> None:
    """What lies under version 4 is what its release has."""
    release = world.folder.releases.latest()
    assert release is not None
    if release.active_version == 4:
        assert release.manifest_digest == world.folder.versions.manifest_digest(4)
        assert Schema.from_dict(world.folder.versions.require(4).schema).outputs[0].shape == (-1, 2)
        assert not [*world.folder.versions.damage(4, deep=True, release=release)]


def killed(world: World, at: int) -> bool:
    killer = Killer(world.triton, at)
    with contextlib.suppress(Killed, Exception), killer.at_work():
        run(world.deployer())
    return killer.struck


def each_point(sweep: Sweep, base: World, root: Path) -> Iterator[tuple[int, World]]:
    """The points of a sweep, each with a world of its own; the caller ends the iteration."""
    for at in sweep.points():
        yield at, materialized(base, root / f"copy-{at}")


def swept(sweep: Sweep, complete: bool) -> None:
    """Enough points were tried."""
    assert sweep.tried > (60 if complete else 60 // STEP)
    sweep.ended()


@EXTENT
def test_a_killed_deploy_is_rolled_back_or_finished(world: World, tmp_path: Path, complete: bool) -> None:
    sweep = Sweep("kill, reconcile, shapes of Triton", "deploy", complete=complete, step=STEP)
    base = deployed(world)
    before = [path.read_text() for path in sorted((world.root / MODEL / "releases").glob("*.json"))]
    for at, one in each_point(sweep, base, tmp_path):
        struck = killed(one, at)
        one.later(10_000)
        reconcile(one, one.deployer())
        agrees(one)
        whole(one, {3, 4}, before)
        if not struck:
            break
    swept(sweep, complete)


@EXTENT
def test_a_killed_deploy_that_is_taken_up_again_goes_live(
    world: World, tmp_path: Path, complete: bool
) -> None:
    sweep = Sweep("kill, the same again, shapes of Triton", "deploy", complete=complete, step=STEP)
    for at, one in each_point(sweep, deployed(world), tmp_path):
        struck = killed(one, at)
        run(one.deployer())
        record = one.folder.journal.get("victim")
        assert record.state is State.COMMITTED, at
        assert record.shapes["differences"] == ["y is [-1, 2] there and [-1, -1] here"]
        agrees(one)
        assert one.ask() == (4, 4.0)
        if not struck:
            break
    swept(sweep, complete)


@EXTENT
def test_a_deploy_that_wakes_up_late_changes_no_file_of_another(
    world: World, tmp_path: Path, complete: bool
) -> None:
    """The other one brings the same version number, with other files of its own."""
    sweep = Sweep(
        "sleep before a call, another commits, shapes of Triton", "deploy", complete=complete, step=STEP
    )
    for at, one in each_point(sweep, deployed(world), tmp_path):

        def another(one: World = one) -> None:
            one.later(10_000)
            assert one.deploy("other", allow_schema_change=True, force=True).state in (
                State.COMMITTED,
                State.UNCHANGED,
            )

        sleeper = Sleeper(one.triton, at, another)
        with contextlib.suppress(DeployError), sleeper.at_work():
            run(one.deployer())
        agrees(one)
        release = one.folder.releases.latest()
        assert release is not None
        assert one.folder.versions.require(4).deploy_id == release.deploy_id, at
        if not sleeper.slept:
            break
    swept(sweep, complete)
