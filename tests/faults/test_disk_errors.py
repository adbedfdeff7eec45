"""The file system fails at every call that an operation makes, once or until the operation has ended; then all is reconciled.

What has to hold afterwards is the crash sweep's ``whole``. And whoever started the operation is told so in words of ours.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients import transfer
from ml_code.triton_deploy.errors import DeployError, StorageFailed
from ml_code.triton_deploy.repository import durable
from tests.support.faults.failing_disk import FAULTS, FailingDisk, Fault
from tests.support.faults.operations import MODEL, OPERATIONS, copied, reconcile, whole
from tests.support.faults.sweep_samples import EXTENT, Sweep
from tests.support.world import World, deployed

STEP = 37
"""Of so many points one is tried, unless all are asked for."""


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync does is not looked at here, only that it fails."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def attempt(world: World, name: str, fault: Fault, at: int, lasting: bool) -> bool:
    """Run an operation during which the disk fails, reconcile, check; False when it ended before."""
    prepare, operate, allowed = OPERATIONS[name]
    world.register_times(4)
    prepare(world)
    before = [path.read_text() for path in sorted((world.root / MODEL / "releases").glob("*.json"))]
    disk = FailingDisk(world.triton, fault, at, lasting)
    told: DeployError | None = None
    try:
        with disk.at_work():
            operate(world, world.deployer())
    except DeployError as error:
        told = error
    if disk.call is None:
        return False
    if fault.what == "fsync fails" and disk.doubtful is not None:
        assert os.fstat(disk.doubtful).st_nlink == 0, "a file whose data may be gone is still there"
        os.close(disk.doubtful)
    if told is not None and "broken" not in name:
        assert isinstance(told, StorageFailed), f"at {disk.call}: {told!r}"
        assert told.hint
        assert os.strerror(fault.number) in told.message, told.message
    world.later(10_000)
    reconcile(world, world.deployer())
    whole(world, allowed, before)
    return True


@EXTENT
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_disk_that_fails_leaves_the_old_or_the_new_release(
    name: str, fault: Fault, lasting: bool, complete: bool, world: World, tmp_path: Path
) -> None:
    base = deployed(world)
    shape = "until the operation ended" if lasting else "once"
    sweep = Sweep(f"{fault.what}, {shape}", name, complete=complete, step=STEP)
    for at in sweep.points():
        try:
            if not attempt(copied(base, tmp_path / f"copy-{at}"), name, fault, at, lasting):
                break
        except BaseException:
            print(f"at point {at}")
            raise
    sweep.ended()


# Each promise is looked at by something that sees when it is broken.


def file_is_synced_again(patch: pytest.MonkeyPatch) -> None:
    """As if a second fsync that succeeds said anything about what the first one lost."""

    def write(path: Path, text: str) -> Path:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError:
                os.fsync(file.fileno())
        return temporary

    patch.setattr(durable, "write_temporary", write)


def rest_of_a_write_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: memoryview, offset: int) -> None:
        os.pwrite(fd, data, offset)

    patch.setattr(transfer, "_write", write)


@pytest.mark.parametrize(
    ("bug", "fault"),
    [(file_is_synced_again, "fsync fails"), (rest_of_a_write_is_forgotten, "short write")],
)
def test_a_planted_bug_is_seen(
    bug: Callable[[pytest.MonkeyPatch], None],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    tmp_path: Path,
) -> None:
    base = deployed(world)
    bug(monkeypatch)
    chosen = next(known for known in FAULTS if known.what == fault)

    def all_points() -> None:
        at = 1
        while attempt(copied(base, tmp_path / f"copy-{at}"), "deploy", chosen, at, lasting=False):
            at += 1

    with pytest.raises((AssertionError, OSError)) as seen:
        all_points()
    print(f"{bug.__name__}: {seen.value}")
