"""Deploys and reverts in a row, under traffic: nothing is noticed, nothing unverified answers, and what it costs Triton."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import pytest

from bench.memory import memory_mib
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest, RevertRequest
from ml_code.triton_deploy.errors import VerificationFailed
from ml_code.triton_deploy.rules.deployment import State
from stack.servers import REPO
from tests.support.faults.figures import record, say
from tests.support.servers.name_clients import CLIENTS, PER_SECOND
from tests.support.servers.traffic import Site, name, own_site
from tests.support.servers.tritons import TritonServer

__all__ = ["name", "own_site"]

pytestmark = pytest.mark.integration


@contextmanager
def asked_all_the_time(site: Site) -> Iterator[list[Mapping[str, Any]]]:
    """Clients in a process of their own ask the public name; yields what each of them saw, filled in at the end."""
    seen: list[Mapping[str, Any]] = []
    command = [
        sys.executable,
        "-m",
        "tests.support.servers.name_clients",
        site.servers[0].grpc_url,
        site.model,
    ]
    clients = subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "asking\n"
        yield seen
        said, _ = clients.communicate("", timeout=60)
        seen += json.loads(said)
    finally:
        clients.kill()
        clients.wait()


def swap(
    site: Site, times_each: int, broken_every: int, tag: str = "s"
) -> tuple[list[int], dict[str, list[float]]]:
    """Deploy, then revert, over and over; a version that fails its smoke test comes in between.

    Returns:
        The versions that were live, in order, and seconds of each ``deploy`` and ``revert``.
    """
    live, took = [site.serves()[0]], dict[str, list[float]](deploy=[], revert=[])
    for number in range(times_each):
        deployer = Deployer(site.settings)
        if (number + 1) % broken_every == 0:
            site.publish(expected=0.5)
            with pytest.raises(VerificationFailed):
                deployer.deploy(DeployRequest(model=site.model, alias="A", deploy_id=f"{tag}-broken{number}"))
        site.publish()
        for what, act in (
            (
                "deploy",
                partial(
                    deployer.deploy, DeployRequest(model=site.model, alias="A", deploy_id=f"{tag}-d{number}")
                ),
            ),
            (
                "revert",
                partial(deployer.revert, RevertRequest(model=site.model, deploy_id=f"{tag}-r{number}")),
            ),
        ):
            started = time.perf_counter()
            done = act()
            took[what].append(time.perf_counter() - started)
            assert done.state is State.COMMITTED
            live.append(done.version)
    return live, took


def assert_unnoticed(seen: Sequence[Mapping[str, Any]], live: Sequence[int], slowest_s: float) -> None:
    """No request failed, every answer was of a version that was live then, and each swap was seen by somebody."""
    failures = [failure for client in seen for failure in client["failures"]]
    assert not failures, f"{len(failures)} requests failed, the first with {failures[0]}"
    for client in seen:
        assert client["wrong"] == [], "an answer of another version than it says"
        assert in_order(client["versions"], live), f"{client['versions']} in {list(live)}"
    # A version that is live for milliseconds only may be missed by one client, not by all of them.
    assert {version for client in seen for version in client["versions"]} == set(live)
    assert max(client["slowest_s"] for client in seen) < slowest_s


def in_order(part: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether the elements of ``part`` come in ``whole`` in this order."""
    rest = iter(whole)
    return all(any(version == other for other in rest) for version in part)


def test_only_what_was_live_is_in_order() -> None:
    assert in_order([1, 3, 1], [1, 2, 1, 3, 1])
    assert not in_order([1, 2, 4], [1, 2, 3])
    assert not in_order([2, 1, 2], [1, 2, 1])


def test_deploys_and_reverts_in_a_row_are_unnoticed(own_site: Callable[..., Site]) -> None:
    site = own_site()
    site.deploy_next()
    with asked_all_the_time(site) as seen:
        live, took = swap(site, times_each=5, broken_every=4)
    assert len(live) == 11
    assert_unnoticed(seen, live, slowest_s=5.0)
    say("traffic", "5 deploys and 5 reverts", {"slowest_ms": slowest_ms(seen), **seconds(took)})


def slowest_ms(seen: Sequence[Mapping[str, Any]]) -> float:
    return round(1000 * max(client["slowest_s"] for client in seen), 1)


def seconds(took: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {f"{what}_s_median": round(median(spent), 3) for what, spent in took.items()}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_deploys_and_a_hundred_reverts_are_unnoticed(own_site: Callable[..., Site]) -> None:
    site = own_site()
    server = site.servers[0]
    assert isinstance(server, TritonServer)
    site.deploy_next()
    with asked_all_the_time(site) as seen:
        # The first swaps fill Triton's pools.
        first, _ = swap(site, times_each=5, broken_every=10, tag="first")
        before = memory_mib(server.pid)
        live, took = swap(site, times_each=100, broken_every=10)
        after = memory_mib(server.pid)
    assert_unnoticed(seen, [*first, *live[1:]], slowest_s=10.0)
    swaps = len(live) - 1
    record(
        "traffic",
        "100 deploys and 100 reverts in a row",
        {
            "clients": CLIENTS,
            "requests_per_s": PER_SECOND,
            "requests": sum(client["answers"] for client in seen),
            "failed_requests": 0,
            "answers_of_unverified_versions": 0,
            "failed_deploys_in_between": 10,
            "slowest_request_ms": slowest_ms(seen),
            "p99_9_request_ms": max(client["p99_9_ms"] for client in seen),
            **seconds(took),
            **{
                f"rss_growth_mib_per_100_swaps_{what}": round(100 * (after[what] - before[what]) / swaps, 2)
                for what in before
            },
            "rss_mib_after": {what: round(value) for what, value in after.items()},
        },
    )
