"""Ten minutes (SOAK_MINUTES) of 300 requests a second while releases, failures and a restart go by. Run with ``-m soak``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.support.servers.gateways import Gateway, Releases, Traffic
from tests.support.servers.local_gateways import Followed, followed, serves, start
from tests.support.waiting import eventually

__all__ = ["followed", "start"]

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = 60 * float(os.environ.get("SOAK_MINUTES", "10"))
PER_SECOND = 300


def spread(actions: list[Callable[[], object]], traffic: Traffic) -> None:
    """Do these things evenly over the time, and keep on asking between them."""
    began = time.monotonic()
    for number, action in enumerate(actions, start=1):
        action()
        traffic.ask_more()
        time.sleep(max(0.0, began + number * SECONDS / len(actions) - time.monotonic()))
    print(f"{traffic.seen.answers.total() / (time.monotonic() - began):.0f} answers a second")


def test_triton_over_20_deploys_20_reverts_5_rollbacks_and_a_restart(
    gateway: Gateway, releases: Releases
) -> None:
    actions: list[Callable[[], object]] = []
    for number in range(20):
        actions += [releases.deploy, releases.revert]
        if number % 4 == 1:
            actions.append(releases.fail)
        if number == 10:
            actions.append(lambda: releases.stacks[1].restart("triton"))
    with Traffic(gateway.address, releases.model, per_second=PER_SECOND, clients=4) as traffic:
        spread(actions, traffic)
    traffic.assert_unnoticed()
    assert len(traffic.seen.versions) >= 21


def test_the_local_backend_over_20_moves_of_its_alias(
    followed: Followed, start: Callable[..., Gateway]
) -> None:
    for _ in range(4):
        followed.publish()
    gateway = start()

    def move(version: int) -> Callable[[], None]:
        def action() -> None:
            followed.publisher.set_alias(followed.name, "A", version)
            eventually(lambda: serves(gateway, version), f"{version} serves", 60)

        return action

    with Traffic(gateway.address, followed.name, per_second=PER_SECOND, clients=4) as traffic:
        spread([move(number % 4 + 1) for number in range(20)], traffic)
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {1, 2, 3, 4}
