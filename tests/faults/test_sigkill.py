"""A real process is killed with SIGKILL before, and after, every call by which it changes files or asks a real Triton; then reconciled.

What has to hold then is what the sweep on fakes wants, of the real server: see ``as_committed``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.fork_server import ForkServer, Job
from tests.support.faults.operations import OPERATIONS
from tests.support.faults.real_site import RealSite, real_site
from tests.support.faults.sweep_samples import Sweep, on_real_servers
from tests.support.world import MODEL, World

pytestmark = pytest.mark.integration

STEP = 37
"""Of so many points one is tried, unless all are asked for."""


@dataclass
class Site:
    """A model repository, a Triton on it, and processes that are killed."""

    real: RealSite
    processes: ForkServer

    @property
    def world(self) -> World:
        return self.real.world

    def run(self, operation: str, **job: Any) -> dict[str, Any]:
        world = self.world
        result = self.processes.run(
            Job(
                operation=operation,
                repository=str(world.root),
                triton=self.real.triton.url,
                now=world.now.isoformat(),
                **job,
            )
        )
        world.now = datetime.fromisoformat(result.get("now", world.now.isoformat()))
        return result


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("sigkill")
    with real_site(folder) as real, ForkServer(folder / "fork-server.log") as processes:
        yield Site(real, processes)


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
    assert site.real.triton.loaded() == engines | {MODEL: (live.active_version,)}
    assert world.engines - {f".{MODEL}"} == engines.keys()
    assert [*world.folder.versions.damage(live.active_version, deep=True)] == []
    assert not [name for name in world.names if name.startswith(".")]
    assert live.active_version == 4 or "4" not in world.names
    for record in world.folder.journal.all():
        assert record.finished


def releases_of(root: Path) -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted((root / MODEL / "releases").glob("*.json")))


@pytest.mark.timeout(7200)
@on_real_servers(OPERATIONS)
def test_a_sigkill_leaves_the_old_or_the_new_release(
    site: Site, name: str, after: bool, complete: bool
) -> None:
    _, _, allowed = OPERATIONS[name]
    sweep = Sweep(f"SIGKILL {'after' if after else 'before'} a call", name, complete=complete, step=STEP)
    began = site.world.now

    def begin() -> tuple[str, ...]:
        site.real.back_to("base", began)
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
