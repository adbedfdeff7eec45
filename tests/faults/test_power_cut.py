"""The power fails after any call that an operation makes, and the disk holds any state that POSIX allows then.

Looked at twice: as Triton and the readers of current.json find it when the machine is up again, and after a reconcile.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.repository import durable
from ml_code.triton_deploy.repository.journal import Journal
from ml_code.triton_deploy.repository.releases import Releases
from ml_code.triton_deploy.repository.versions import Versions
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.rules.version_files import Manifest
from tests.support.fakes import FakeTriton
from tests.support.faults.killed_process import Killed
from tests.support.faults.operations import OPERATIONS, copied, deploy, nothing, reconcile, whole
from tests.support.faults.power_cut import Disk, Op, Recorder, Tree, lay_out
from tests.support.faults.sweep_samples import EXTENT, Sweep
from tests.support.world import MODEL, World, deployed

MIXTURES = 4
"""States tried after each call besides: all is lost that was not synced; nothing is; all names are there and no data."""

FIRST = "first deploy"
CUT = {**OPERATIONS, FIRST: (nothing, deploy, {None, 4})}


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync does is what the model says."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@dataclass(frozen=True)
class Aftermath:
    """What may be found after a power cut.

    Attributes:
        after: number of calls that were made.
        mode: how the state was chosen.
        tree: the state.
        allowed: versions that may be live; None for none.
        releases: text of the releases that must be there.
    """

    after: int
    mode: str
    tree: Tree
    allowed: frozenset[int | None]
    releases: tuple[str, ...]


def releases_of(world: World) -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted((world.root / MODEL / "releases").glob("*.json")))


def live_in(world: World) -> int | None:
    live = world.folder.releases.latest()
    return live.active_version if live else None


@dataclass
class Recording:
    """What was done to a world's files, and what must be true of it at the end."""

    disk: Disk
    ops: list[Op]
    before: tuple[str, ...]
    allowed: frozenset[int | None]
    reported: frozenset[int | None]
    released: tuple[str, ...]

    def aftermaths(self, start: int, mixtures: int, choice: random.Random) -> Iterator[Aftermath]:
        """Yield every state once that may be found after a call from the ``start``-th on."""
        known = set()
        for done in range(len(self.ops) + 1):
            if done:
                self.disk.play(self.ops[done - 1])
            if done < start:
                continue
            last = done == len(self.ops)
            allowed = self.reported if last else self.allowed
            modes = {
                "certain": self.disk.certain,
                "seen": self.disk.seen,
                "names": self.disk.names_without_data,
                **{f"mixture {n}": lambda: self.disk.possible(choice) for n in range(mixtures)},
            }
            for mode, look in modes.items():
                tree = look()
                key = hash((tuple(tree.items()), allowed))
                if key not in known:
                    known.add(key)
                    yield Aftermath(done, mode, tree, allowed, self.released if last else self.before)


def boot(world: World, tree: Tree, root: Path) -> World:
    """Lay a state out and start a Triton on it, as its command line says: what can't be loaded is not."""
    lay_out(tree, root)
    triton = FakeTriton(root)
    for model in sorted(os.listdir(root)):
        with contextlib.suppress(DeployError):
            triton.load(model, 1.0)
    return replace(world, root=root, settings=replace(world.settings, repository=root), triton=triton)


def as_readers_find_it(world: World, found: Aftermath) -> None:
    """Before anybody has put anything right."""
    history = releases_of(world)
    assert history[: len(found.releases)] == found.releases, "a release is lost"
    read = [Release.from_json(text) for text in history]
    assert [release.generation for release in read] == list(range(1, len(read) + 1))
    assert world.current in (*history, *([None] if None in found.allowed else [])), (
        "current.json is no release"
    )
    if None not in found.allowed:
        version, value = world.ask()
        assert version == value
        released = {release.active_version for release in read}
        assert version in found.allowed & released, "a restarted Triton serves what was not committed"


def check(world: World, found: Aftermath) -> None:
    as_readers_find_it(world, found)
    # Longer than the lease of a reconcile that came after the operation's.
    world.later(50_000)
    reconcile(world, world.deployer())
    for record in world.folder.journal.all():
        assert record.finished, f"nobody will finish {record}"
    if live_in(world) is None:
        assert None in found.allowed
        assert world.deploy("next").state is State.COMMITTED
    else:
        whole(world, {version for version in found.allowed if version}, list(found.releases))


def based(world: World, name: str, root: Path) -> World:
    """A copy of a world in which the operation is about to begin."""
    copy = copied(world, root) if name != FIRST else world
    copy.register_times(4)
    CUT[name][0](copy)
    return copy


def recorded(world: World, name: str, *, kill_at: int = 1 << 30, then: str = "") -> tuple[Recording, int]:
    """Run an operation, perhaps kill it and do what comes then; return also how many calls came before that."""
    _, operate, allowed = CUT[name]
    disk, before = Disk(world.root), releases_of(world)
    first, second = Recorder(world.triton, world.root, kill_at), Recorder(world.triton, world.root)
    with contextlib.suppress(Killed, DeployError), first.at_work():
        operate(world, world.deployer())
    if then:
        with contextlib.suppress(DeployError), second.at_work():
            FOLLOWING[then](world, name)
    reported = frozenset({live_in(world)})
    ops = first.ops + [shifted(op) for op in second.ops]
    return Recording(disk, ops, before, frozenset(allowed), reported, releases_of(world)), len(first.ops)


def shifted(op: Op) -> Op:
    """The same with a handle that no earlier recording has."""
    return tuple(
        -1 - arg if isinstance(arg, int) and at == HANDLE.get(op[0]) else arg for at, arg in enumerate(op)
    )


HANDLE = {"open": 2, "write": 1, "truncate": 1, "fsync": 1}
"""Where a recorded call has its handle."""


def settle(world: World, name: str) -> None:
    world.later(10_000)
    reconcile(world, world.deployer())


def again(world: World, name: str) -> None:
    """The scheduler starts the killed task again: it goes on where the record says."""
    CUT[name][1](world, world.deployer())


FOLLOWING: dict[str, Callable[[World, str], None]] = {"reconcile": settle, "the same again": again}


def sweep_all(sweep: Sweep, world: World, states: Iterator[Aftermath], root: Path) -> None:
    wanted, points = sweep.points(), 0
    at = next(wanted)
    for number, found in enumerate(states, 1):
        if number < at:
            continue
        at = next(wanted)
        points += 1
        try:
            check(boot(world, found.tree, root), found)
        except BaseException:
            print(f"{sweep.what} in {sweep.name}: after call {found.after}, {found.mode}")
            raise
        shutil.rmtree(root)


@EXTENT
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", CUT)
def test_a_power_cut_leaves_the_old_or_the_new_release(
    name: str, complete: bool, world: World, tmp_path: Path
) -> None:
    base = based(world if name == FIRST else deployed(world), name, tmp_path / "base")
    sweep = Sweep("power cut", name, complete=complete, step=13)
    recording, _ = recorded(base, name)
    sweep_all(sweep, base, recording.aftermaths(0, MIXTURES, sweep.random), tmp_path / "state")
    sweep.ended()


@pytest.mark.parametrize("name", CUT)
def test_the_recorder_sees_every_change(name: str, world: World, tmp_path: Path) -> None:
    """Played again, what was recorded gives the files that are there."""
    base = based(world if name == FIRST else deployed(world), name, tmp_path / "base")
    recording, _ = recorded(base, name)
    for op in recording.ops:
        recording.disk.play(op)
    assert recording.disk.seen() == Disk(base.root).seen()


def before_syncs(world: World, name: str) -> list[tuple[int, str]]:
    """Run an operation; return the number of each call that syncs a directory, and which: a kill there leaves names that are only seen."""
    recorder = Recorder(world.triton, world.root)
    with contextlib.suppress(DeployError), recorder.at_work():
        CUT[name][1](world, world.deployer())
    return [(at, path.name) for at, path in recorder.syncs]


def after_kills(
    name: str,
    then: str,
    origin: Callable[[], World],
    root: Path,
    choice: random.Random,
    kills: int,
) -> Iterator[Aftermath]:
    """Yield what may be found after a kill and a power cut in what comes then.

    Args:
        name: the operation.
        then: what comes after the kill.
        origin: gives the world before the operation.
        root: a folder for this.
        choice: what decides.
        kills: how many points of a kill are tried at most.
    """
    points = [at for at, _ in before_syncs(based(origin(), name, root / "trial"), name)]
    for at in sorted(choice.sample(points, min(kills, len(points)))):
        recording, start = recorded(based(origin(), name, root / f"killed-{at}"), name, kill_at=at, then=then)
        yield from recording.aftermaths(start + 1, 1, choice)


@EXTENT
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("then", FOLLOWING)
@pytest.mark.parametrize("name", CUT)
def test_a_power_cut_after_a_kill_leaves_the_old_or_the_new_release(
    name: str, then: str, complete: bool, fresh_world: Callable[[], World], tmp_path: Path
) -> None:
    """What the killed process did is seen by whoever goes on, and need not be on the disk."""
    first = fresh_world()
    if name == FIRST:
        first.register_times(4)
    else:
        deployed(first)
    sweep = Sweep(f"kill, {then}, power cut", name, complete=complete, step=29, complete_step=5)
    states = after_kills(
        name,
        then,
        fresh_world if name == FIRST else lambda: first,
        tmp_path,
        sweep.random,
        kills=10 if complete else 2,
    )
    sweep_all(sweep, first, states, tmp_path / "state")
    sweep.ended()


# Each promise is looked at by something that sees when it is broken.


def data_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    def write(path: Path, text: str) -> Path:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        temporary.write_text(text, encoding="utf-8")
        return temporary

    patch.setattr(durable, "write_temporary", write)


def names_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    def create(path: Path, text: str) -> bool:
        temporary = durable.write_temporary(path, text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    patch.setattr(durable, "create_file", create)


def artifact_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(durable, "fsync_tree", lambda root: None)


def current_json_before_the_release(patch: pytest.MonkeyPatch) -> None:
    publish = Releases.publish

    def swapped(self: Releases, release: Release) -> None:
        self.project(release)
        publish(self, release)

    patch.setattr(Releases, "publish", swapped)


def restart_before_the_release(patch: pytest.MonkeyPatch) -> None:
    """What a restarted Triton serves is written when clients may reach the candidate, not when it is committed."""
    switch_to = Fleet.switch_to

    def early(self: Fleet, manifest: Manifest) -> Any:
        self.files.write_switch(manifest)
        return switch_to(self, manifest)

    patch.setattr(Fleet, "switch_to", early)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "bug",
    [
        data_are_not_synced,
        names_are_not_synced,
        artifact_is_not_synced,
        pytest.param(current_json_before_the_release, marks=pytest.mark.soak),
        pytest.param(restart_before_the_release, marks=pytest.mark.soak),
    ],
)
def test_a_planted_bug_is_seen(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path
) -> None:
    base = based(deployed(world), "deploy", tmp_path / "base")
    bug(monkeypatch)
    recording, _ = recorded(base, "deploy")
    assert State.COMMITTED in {record.state for record in base.folder.journal.all()}
    seen_at_last(base, recording.aftermaths(0, MIXTURES, random.Random(1)), tmp_path / "state")


def release_that_is_only_seen(patch: pytest.MonkeyPatch) -> None:
    """Who finds the release of a killed process goes on, though it may not be on the disk."""

    def find(self: Releases, deploy_id: str, from_generation: int) -> Release | None:
        found = (release for release in self.history() if release.deploy_id == deploy_id)
        return next(found, None)

    patch.setattr(Releases, "of_deployment", find)


def record_that_is_only_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "sync", lambda self, deploy_id: None)


def version_that_is_only_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Versions, "sync_names", lambda self: None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("bug", "then", "folder", "nth"),
    [
        (release_that_is_only_seen, "reconcile", "releases", 0),
        (record_that_is_only_seen, "the same again", "victim", 0),
        # The first sync is that of the staging directory's name.
        (version_that_is_only_seen, "the same again", MODEL, 1),
    ],
)
def test_a_bug_is_seen_that_needs_a_kill_and_a_power_cut(
    bug: Callable[[pytest.MonkeyPatch], None],
    then: str,
    folder: str,
    nth: int,
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    tmp_path: Path,
) -> None:
    origin = deployed(world)
    bug(monkeypatch)
    syncs = before_syncs(based(origin, "deploy", tmp_path / "trial"), "deploy")
    kill_at = [at for at, path in syncs if path == folder][nth]
    killed = based(origin, "deploy", tmp_path / "killed")
    recording, start = recorded(killed, "deploy", kill_at=kill_at, then=then)
    seen_at_last(origin, recording.aftermaths(start + 1, 0, random.Random(1)), tmp_path / "state")


def seen_at_last(world: World, states: Iterator[Aftermath], root: Path) -> None:
    found: Aftermath | None = None

    def check_all() -> None:
        nonlocal found
        for found in states:
            check(boot(world, found.tree, root), found)
            shutil.rmtree(root)

    with pytest.raises((AssertionError, DeployError, OSError, ValueError)) as seen:
        check_all()
    assert found is not None
    print(f"seen after call {found.after}, {found.mode}: {seen.value}")
