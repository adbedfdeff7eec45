"""A process is killed at every file-system call and every call to Triton that it makes, then reconciled.

What has to hold afterwards is written once, in ``whole``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.faults.killed_process import Killed, Killer
from tests.support.faults.operations import OPERATIONS, collector, copied, gc, reconcile, whole
from tests.support.world import MODEL, World, deployed

DEADLY = 100_000
"""More calls than any operation makes."""


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
