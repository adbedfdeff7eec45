"""Twenty processes deploy one model at once, on the real servers: one release a generation, and all others are told why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from stack import Stack
from stack.servers import REPO
from tests.support.faults.figures import record, say
from tests.support.models import files, golden, times
from tests.support.servers.traffic import Site
from tests.support.servers.tritons import TritonServer

pytestmark = pytest.mark.integration

RACERS = 20


def race(site: Site, rounds: int, *bugs: str) -> list[Mapping[str, Any]]:
    """Let every racer deploy the version that its own alias names; return what each attempt came to."""
    for number in range(RACERS):
        version = number + 1
        artifact = files(times(version), triton__golden_json=golden(version))
        assert site.publisher.publish(site.model, artifact, alias=f"r{number}") == version
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.servers.racing_deployers",
            site.model,
            str(RACERS),
            str(rounds),
            *bugs,
        ],
        cwd=REPO,
        env={**os.environ, **site.environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    attempts: list[Mapping[str, Any]] = json.loads(done.stdout)
    return attempts


def assert_one_release_a_generation(site: Site, attempts: Sequence[Mapping[str, Any]]) -> None:
    """Every attempt that was reported as committed has exactly one release, and no other attempt has one."""
    releases = list(site.folder.releases.history())
    assert [release.generation for release in releases] == list(range(len(releases), 0, -1))
    committed = {
        attempt["deploy_id"]: attempt["version"]
        for attempt in attempts
        if attempt["state"] == State.COMMITTED
    }
    assert {release.deploy_id: release.active_version for release in releases} == committed
    assert len(releases) == len(committed)


def assert_losers_were_told_why(attempts: Sequence[Mapping[str, Any]]) -> None:
    for attempt in attempts:
        if attempt["state"] is None:
            # A revert may also come before there is anything to go back to.
            allowed = ("lease_held", "superseded", *(["not_found"] if attempt["reverts"] else []))
            assert attempt["error"] in allowed, attempt
            assert attempt["message"]
            assert attempt["hint"]
        else:
            assert attempt["state"] in (State.COMMITTED, State.UNCHANGED)


def assert_all_is_well(site: Site) -> None:
    live = site.folder.releases.latest()
    assert live is not None
    assert site.serves() == [live.active_version]
    assert site.folder.releases.projected() == live
    found = Reconciler(site.settings).run(site.model)
    assert (found.done, found.problems, found.under_way) == ((), (), "")


@pytest.fixture
def raced(stack: Stack) -> Iterator[Site]:
    """A model of which no version was ever deployed; taken out of Triton at the end."""
    site = Site(stack, f"raced-{uuid.uuid4().hex[:8]}", stack.model_repository, TritonServer(stack))
    yield site
    triton = GrpcTriton(stack.url("triton-grpc"), 20)
    for model in triton.loaded():
        if model.startswith(site.model):
            triton.unload(model, 20)


def outcomes(attempts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(str(attempt["state"] or attempt["error"]) for attempt in attempts))


def test_twenty_deployers_of_one_model_at_once(raced: Site) -> None:
    attempts = race(raced, rounds=15)
    say("concurrency", f"{RACERS} deployers", outcomes(attempts))
    assert_losers_were_told_why(attempts)
    assert_one_release_a_generation(raced, attempts)
    assert_all_is_well(raced)
    assert outcomes(attempts)[State.COMMITTED] >= 1
    assert outcomes(attempts)["lease_held"] >= 1, "they met"


@pytest.mark.soak
def test_the_release_record_alone_keeps_them_apart(raced: Site) -> None:
    """Everything else only saves work: without it all go the whole way, and still one commits each generation."""
    attempts = race(raced, 1, "nobody_minds_the_others")
    assert_one_release_a_generation(raced, attempts)
    assert outcomes(attempts)["superseded"] >= 1, "they met"


@pytest.mark.soak
def test_a_lost_update_is_seen(raced: Site) -> None:
    """The planted bug: nothing keeps them apart."""
    attempts = race(raced, 1, "nobody_minds_the_others", "release_that_replaces")
    with pytest.raises(AssertionError):
        assert_one_release_a_generation(raced, attempts)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_figures_of_many_deployers(raced: Site) -> None:
    attempts = race(raced, rounds=100)
    assert_losers_were_told_why(attempts)
    assert_one_release_a_generation(raced, attempts)
    assert_all_is_well(raced)
    record(
        "concurrency",
        f"{RACERS} deployers of one model at once",
        {"attempts": len(attempts), "lost_updates": 0, **outcomes(attempts)},
    )
