"""A process sleeps at any call that has effects until its lease is over and others have committed, then wakes and runs to its end.

A paused machine, a file system that hangs, a processor that is starved. What serves then, what current.json says and what a
restarted Triton would serve is the last release, before any reconcile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.fleet.fleet import Fleet
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Judgment, Watched
from ml_code.triton_deploy.rules.deployment import Canary, State
from tests.support.faults.killed_process import Killed, Recorder, Sleeper
from tests.support.faults.operations import OPERATIONS, copied, nothing, reconcile
from tests.support.faults.real_site import RealSite, real_site
from tests.support.faults.sweep_samples import EXTENT, Sweep, on_real_servers
from tests.support.world import MODEL, World, deployed

STEP = 17
"""Of so many points one is tried, unless all are asked for."""
STEP_ON_TRITON = 211
COMPLETE_STEP_ON_TRITON = 10
"""Of so many points one is tried on a real Triton, besides all that touch what is live: a point takes two starts of it."""


def does_well(watched: Watched) -> Judgment:
    return Judgment(CanaryVerdict.PASS, "")


def canary(world: World, deployer: Deployer) -> None:
    share = Canary(shares_percent=(20, 50), shadow_percent=0, step_s=60)
    world.deployer(sleep=world.later, judge=does_well).deploy(world.request("victim", canary=share))


LATE = {**{name: parts[:2] for name, parts in OPERATIONS.items()}, "canary": (nothing, canary)}
"""Each operation: what comes before it, and what it does."""
VARIANTS = pytest.mark.parametrize(
    ("after", "others"),
    [(False, 1), (False, 2), (True, 1), (True, 2)],
    ids=["before, one", "before, two", "after, one", "after, two"],
)


def what(after: bool, others: int) -> str:
    """Return the name of a sweep in docs/reliability.md."""
    commit = "another commits" if others == 1 else "two others commit"
    return f"sleep {'after' if after else 'before'} a call, {commit}"


def others_commit(world: World, others: int) -> None:
    """The lease of who sleeps runs out, and so many versions are released by others."""
    world.later(10_000)
    for number in range(others):
        world.register_times(5 + number)
        assert world.deploy(f"other-{number}").state is State.COMMITTED
        world.later(10)


def the_same_commits(world: World) -> None:
    world.later(10_000)
    # Forced: between the note that a Triton gets the candidate and the load, that Triton looks like one that was started anew.
    other = world.deployer().deploy(world.request("other", force=True))
    assert other.state in (State.COMMITTED, State.UNCHANGED)
    world.later(10)


def attempt(
    world: World, name: str, at: int, *, after: bool, others: int, restart: Callable[[], object]
) -> bool:
    """Run an operation that sleeps at its ``at``-th call, and look; False when it ended before that."""
    prepare, operate = LATE[name]
    world.register_times(4)
    prepare(world)
    sleeper = Sleeper(world.triton, at, lambda: others_commit(world, others), after=after)
    with sleeper.at_work(), suppress(DeployError):
        operate(world, world.deployer())
    if sleeper.slept:
        last_release_everywhere(world, 4 + others)
        survives(world, 4 + others, restart)
    return sleeper.slept


def last_release_everywhere(world: World, version: int) -> None:
    live = world.folder.releases.latest()
    assert live is not None
    assert live.active_version == version
    assert json.loads(world.current or "")["generation"] == live.generation
    manifest = world.folder.versions.require(version)
    assert Fleet(world.folder, [world.triton], world.settings).files.switch_is_written(manifest)
    assert world.ask() == (version, float(version))
    for held in live.loaded_versions:
        assert world.folder.engines.is_whole(held)


def survives(world: World, version: int, restart: Callable[[], object]) -> None:
    restart()
    assert world.ask() == (version, float(version))


@EXTENT
@pytest.mark.timeout(900)
@VARIANTS
@pytest.mark.parametrize("name", LATE)
def test_who_sleeps_past_its_lease_takes_nothing_away(
    name: str,
    after: bool,
    others: int,
    complete: bool,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing here loses power.
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    base = deployed(world)
    sweep = Sweep(what(after, others), name, complete=complete, step=STEP)
    for at in sweep.points():
        copy = copied(base, tmp_path / f"copy-{at}")
        triton = copy.triton
        if not attempt(
            copy, name, at, after=after, others=others, restart=lambda triton=triton: triton.restart(MODEL)
        ):
            break
    assert sweep.tried > 1
    sweep.ended()


@EXTENT
@pytest.mark.timeout(900)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["deploy", "canary"])
def test_who_sleeps_takes_nothing_of_the_same_version_away(
    name: str, after: bool, complete: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another deployment of the version that it has as its candidate made it live meanwhile."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    base = deployed(world)
    what = f"sleep {'after' if after else 'before'} a call, the same version commits"
    sweep = Sweep(what, name, complete=complete, step=STEP)
    for at in sweep.points():
        copy = copied(base, tmp_path / f"copy-{at}")
        copy.register_times(4)
        sleeper = Sleeper(copy.triton, at, lambda copy=copy: the_same_commits(copy), after=after)
        with sleeper.at_work(), suppress(DeployError):
            LATE[name][1](copy, copy.deployer())
        if not sleeper.slept:
            break
        last_release_everywhere(copy, 4)
        survives(copy, 4, lambda copy=copy: copy.triton.restart(MODEL))
    assert sweep.tried > 1
    sweep.ended()


def test_a_load_that_wakes_up_late_gives_back_what_another_deployment_released(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it writes the engine, whichever call that is: a sample may pass over it."""
    copy = copied(deployed(world), tmp_path / "copy")
    copy.register_times(4)
    load, slept = Fleet.load_candidate, []

    def late(self: Fleet, *arguments: Any, **options: Any) -> None:
        if not slept:
            slept.append(True)
            the_same_commits(copy)
        load(self, *arguments, **options)

    monkeypatch.setattr(Fleet, "load_candidate", late)
    with suppress(DeployError):
        LATE["deploy"][1](copy, copy.deployer())
    assert slept
    last_release_everywhere(copy, 4)
    survives(copy, 4, lambda: copy.triton.restart(MODEL))


@EXTENT
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LATE)
def test_who_is_killed_when_it_wakes_leaves_the_rest_to_reconcile(
    name: str, complete: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what it does and its look at the last release, nobody but the next reconcile can put that right."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    base = deployed(world)
    sweep = Sweep("sleep before a call, another commits, killed after it", name, complete=complete, step=STEP)
    left = 0
    for at in sweep.points():
        copy = copied(base, tmp_path / f"copy-{at}")
        prepare, operate = LATE[name]
        copy.register_times(4)
        prepare(copy)
        sleeper = Sleeper(copy.triton, at, lambda copy=copy: others_commit(copy, 1), killed=True)
        with sleeper.at_work(), suppress(DeployError, Killed):
            operate(copy, copy.deployer())
        if not sleeper.slept:
            break
        try:
            last_release_everywhere(copy, 5)
        except (AssertionError, DeployError):
            left += 1
        copy.later(10_000)
        reconcile(copy, copy.deployer())
        last_release_everywhere(copy, 5)
        survives(copy, 5, lambda copy=copy: copy.triton.restart(MODEL))
    assert sweep.tried > 1
    sweep.ended(left_to_reconcile=left)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    with real_site(tmp_path_factory.mktemp("late")) as site:
        yield site


def touches_what_is_live(call: str) -> bool:
    """Whether a call is about current.json, the switch on disk, or a flip."""
    return "current.json" in call or f"{MODEL}/config.pbtxt" in call or call == f"load {MODEL}"


@pytest.mark.integration
@pytest.mark.timeout(3600)
@on_real_servers(LATE)
def test_who_sleeps_past_its_lease_takes_nothing_away_from_a_real_triton(
    name: str, after: bool, complete: bool, site: RealSite
) -> None:
    sweep = Sweep(
        f"{what(after, 2)}, real Triton",
        name,
        complete=complete,
        step=STEP_ON_TRITON,
        complete_step=COMPLETE_STEP_ON_TRITON,
    )
    began = site.world.now

    def sleep_at(at: int) -> bool:
        site.back_to("base", began)
        return attempt(
            site.world, name, at, after=after, others=2, restart=lambda: site.stack.restart("triton")
        )

    site.back_to("base", began)
    prepare, operate = LATE[name]
    site.world.register_times(4)
    prepare(site.world)
    recorder = Recorder(site.world.triton)
    with recorder.at_work(), suppress(DeployError):
        operate(site.world, site.world.deployer())
    live = {at for at, call in enumerate(recorder.calls, 1) if touches_what_is_live(call)}
    assert live or name in ("gc", "deploy of a broken version"), recorder.calls
    for at in sweep.points():
        if not sleep_at(at):
            break
        live.discard(at)
    for at in sorted(live) if complete else ():
        assert sleep_at(at), f"call {at} was not reached"
        sweep.tried += 1
    site.world.now = began
    sweep.ended()
