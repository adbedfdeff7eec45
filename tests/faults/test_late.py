"""A process sleeps at any call that has effects until its lease is over and others have committed, then wakes and runs to its end.

A paused machine, a file system that hangs, a processor that is starved. What serves then, what current.json says and what a
restarted Triton would serve is the last release, before any reconcile.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.records import State
from ml_code.triton_deploy.serving import Serving
from tests.support.faults.killing import Sleeper
from tests.support.faults.operations import OPERATIONS, copied
from tests.support.world import MODEL, World, deployed

EVERY = 9
"""Of so many points one is looked at in `make test`; the soak looks at all."""


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def others_commit(world: World, count: int) -> None:
    """The lease of who sleeps runs out, and so many versions are released by others."""
    world.later(10_000)
    for number in range(count):
        world.register_times(5 + number)
        assert world.deploy(f"other-{number}").state is State.COMMITTED
        world.later(10)


def attempt(world: World, name: str, at: int, *, after: bool, count: int) -> bool:
    """Run an operation that sleeps at its ``at``-th call, and look; False when it ended before that."""
    prepare, operate, _ = OPERATIONS[name]
    world.register_times(4)
    prepare(world)
    sleeper = Sleeper(world.triton, at, lambda: others_commit(world, count), after=after)
    with sleeper.at_work(), suppress(DeployError):
        operate(world, world.deployer())
    if sleeper.slept:
        last_release_everywhere(world, 4 + count)
    return sleeper.slept


def last_release_everywhere(world: World, version: int) -> None:
    live = world.folder.releases.latest()
    assert live is not None
    assert live.active_version == version
    assert json.loads(world.current or "")["generation"] == live.generation
    manifest = world.folder.versions.need(version)
    assert Serving(MODEL, world.folder.versions, [world.triton], world.settings).switch_is_written(manifest)
    assert world.ask() == (version, float(version))
    for held in live.loaded_versions:
        assert world.folder.versions.engine_is_whole(held)
    world.triton.restart(MODEL)
    assert world.ask() == (version, float(version))


def sweep(name: str, world: World, folder: Path, every: int) -> int:
    base, points, looked_at = deployed(world), 0, 0
    for after in (False, True):
        for count in (1, 2):
            at = 1 + (count + 2 * after) % every
            while attempt(copied(base, folder / f"{after}-{count}-{at}"), name, at, after=after, count=count):
                looked_at += 1
                at += every
            points = max(points, at - 1)
    print(f"{name}: {points} calls, {looked_at} sleeps")
    assert points > 10
    return looked_at


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", OPERATIONS)
def test_who_sleeps_past_its_lease_takes_nothing_away(name: str, world: World, tmp_path: Path) -> None:
    assert sweep(name, world, tmp_path, EVERY) > 10


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_who_sleeps_anywhere_takes_nothing_away(name: str, world: World, tmp_path: Path) -> None:
    assert sweep(name, world, tmp_path, 1) > 100
