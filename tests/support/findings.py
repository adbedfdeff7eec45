"""Faults of a repository: torn, unreadable or badly named files; and a snapshot of all its files."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.world import World

STEPS = ("materialize", "load", "ready", "smoke", "commit")


def snapshot_of(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file, which a touch would alter."""
    return {str(p): ((s := os.lstat(p)).st_ino, s.st_mtime_ns) for p in root.rglob("*")}


def torn_release(world: World) -> None:
    folder = world.root / "a_torn_one"
    for name in ("deployments", "releases"):
        (folder / name).mkdir(parents=True)
    (folder / "releases/000001.json").write_text("{")


def bad_name(world: World) -> None:
    (world.root / "a bad name" / "deployments").mkdir(parents=True)


def unreadable(world: World) -> None:
    """Nothing that the library expects: a defect of its own, or a file system that does what none should."""
    folder = world.root / "a_broken_one"
    (folder / "deployments").mkdir(parents=True)
    (folder / "leases" / "000001.json").mkdir(parents=True)
