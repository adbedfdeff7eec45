"""A real process is killed with SIGKILL before, and after, every call by which it changes files or asks a real Triton; then reconciled.

What has to hold then is what the sweep on fakes wants, of the real server: see ``as_committed``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.triton import GrpcTriton
from stack import Stack
from tests.support.fakes import FakeRegistry, fake_store
from tests.support.faults.fork_server import CALL_S, ForkServer, Job
from tests.support.faults.operations import OPERATIONS
from tests.support.faults.sampling import EXTENT, Sweep
from tests.support.world import MODEL, SETTINGS, World, deployed

pytestmark = pytest.mark.integration

STEP = 37
"""Of so many points one is tried, unless all are asked for."""


@dataclass
class Site:
    """A model repository, a Triton on it, and processes that are killed."""

    world: World
    triton: GrpcTriton
    stack: Stack
    processes: ForkServer
    originals: Path

    def run(self, operation: str, **job: Any) -> dict[str, Any]:
        world = self.world
        result = self.processes.run(
            Job(
                operation=operation,
                repository=str(world.root),
                triton=self.triton.url,
                now=world.now.isoformat(),
                **job,
            )
        )
        world.now = datetime.fromisoformat(result.get("now", world.now.isoformat()))
        return result

    def keep(self, name: str) -> None:
        shutil.copytree(self.world.root, self.originals / name, symlinks=True)

    def back_to(self, name: str, now: datetime) -> None:
        """Everything as it was kept: the files, and on Triton versions 2 and 3 loaded, 3 served."""
        self.world.now = now
        for path in self.world.root.iterdir():
            shutil.rmtree(path)
        shutil.copytree(self.originals / name, self.world.root, symlinks=True, dirs_exist_ok=True)
        loaded = self.triton.loaded()
        for model in ("best_model.v2", "best_model.v3"):
            if model not in loaded:
                self.triton.load(model, CALL_S)
        if loaded.get(MODEL) != (3,):
            self.triton.load(MODEL, CALL_S)
        for model in loaded.keys() - {MODEL, "best_model.v2", "best_model.v3"}:
            self.triton.unload(model, CALL_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Versions 1 to 3 were deployed, version 4 is registered; as in the sweep on fakes."""
    folder = tmp_path_factory.mktemp("sigkill")
    root = folder / "repository"
    root.mkdir()
    with (
        fake_store() as store,
        Stack(folder / "stack", ["triton"], model_repository=root) as stack,
        ForkServer(folder / "fork-server.log") as processes,
    ):
        triton: Any = GrpcTriton(stack.url("triton-grpc"), CALL_S)
        settings = replace(SETTINGS, repository=root, ready_timeout_s=CALL_S)
        world = deployed(World(root, settings, FakeRegistry(), store, triton))
        (folder / "originals").mkdir()
        site = Site(world, triton, stack, processes, folder / "originals")
        site.keep("base")
        yield site


def as_committed(site: Site, allowed: set[int], before: tuple[str, ...]) -> None:
    """Old or new; the history and current.json whole; Triton agrees, and has nothing else; nothing left over."""
    world = site.world
    live = world.folder.releases.latest()
    assert live is not None
    assert live.active_version in allowed
    history = releases_of(world.root)
    assert history[: len(before)] == before
    assert len(history) == live.generation
    assert json.loads(world.current or "") == json.loads(history[-1])
    assert world.ask() == (live.active_version, float(live.active_version))
    engines = {f"{MODEL}.v{version}": (version,) for version in live.loaded_versions}
    assert site.triton.loaded() == engines | {MODEL: (live.active_version,)}
    assert world.engines - {f".{MODEL}"} == engines.keys()
    assert [*world.folder.versions.damage(live.active_version, deep=True)] == []
    assert not [name for name in world.names if name.startswith(".")]
    assert live.active_version == 4 or "4" not in world.names
    for record in world.folder.journal.all():
        assert record.finished


def releases_of(root: Path) -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted((root / MODEL / "releases").glob("*.json")))


@EXTENT
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_sigkill_leaves_the_old_or_the_new_release(
    site: Site, name: str, after: bool, complete: bool
) -> None:
    _, _, allowed = OPERATIONS[name]
    sweep = Sweep(f"SIGKILL {'after' if after else 'before'} a call", name, complete=complete, step=STEP)
    began = site.world.now

    def begin() -> tuple[str, ...]:
        site.back_to("base", began)
        site.run(name, part="prepare")
        return releases_of(site.world.root)

    begin()
    calls = site.run(name)["calls"]
    for at in sweep.points():
        if at > calls:
            break
        before = begin()
        ended = site.run(name, at=at, after=after)
        if not ended["killed"]:
            # What an earlier one had Triton load may be loaded still: there is less to do then, by a load and an unload.
            assert calls - 2 <= ended["calls"] < at, f"point {at} of {calls}: {ended}"
            break
        site.world.later(10_000)
        assert site.run("reconcile")["error"] == ""
        try:
            as_committed(site, allowed, before)
        except BaseException:
            print(f"{sweep.what} in {name}: point {at}")
            raise
    site.world.now = began
    sweep.ended()
