"""A bake that nobody could judge: no traffic, a Prometheus that is away, and one that is set up wrongly are three things."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from ml_code.triton_deploy.clients.prometheus import Firing
from ml_code.triton_deploy.errors import (
    AccessDenied,
    BakeFailed,
    BakeHeld,
    DeployError,
    Misconfigured,
    Unavailable,
)
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.upkeep.bake import Baking
from ml_code.triton_deploy.watch.observer import Observer
from ml_code.triton_deploy.watch.policy import BakePolicy
from ml_code.triton_deploy.watch.queries import Queries
from ml_code.triton_deploy.watch.release_watch import PATIENCE, Watch
from tests.support.world import MODEL, World

QUERIES = Queries.parse(
    {"sources": {"probe": {kind: kind for kind in ("requests", "failures", "latency_s")}}}
)
POLICY = BakePolicy(duration_s=600, interval_s=60, window_s=120, bad_looks=2, limits=Limits())
AWAY = Unavailable("Prometheus can't be reached.", hint="Check it.")
NO_QUERY = Misconfigured("Prometheus does not take a query (400).", hint="Correct it.")
DENIED = AccessDenied("Prometheus denies access (401).", hint="Correct it.")


@dataclass
class Scripted:
    """A Prometheus that fails as a test wants, or sees so many requests, all answered well."""

    error: DeployError | None = None
    requests: float = 1000
    asked: list[str] = field(default_factory=list)

    def value(self, query: str) -> float | None:
        self.asked.append(query)
        if self.error:
            raise self.error
        return self.requests if query == "requests" else 0.0


@dataclass
class Site:
    """Version 2 bakes, after version 1."""

    world: World
    metrics: Scripted
    policy: BakePolicy = POLICY

    def watch(self) -> Watch:
        observer = Observer(QUERIES, self.metrics, self.policy.limits)
        return Watch(self.world.folder, 2, self.policy, observer, lambda: self.world.now)

    def verdict(self) -> Bake:
        watch = self.watch()
        while True:
            self.world.later(60)
            if (bake := watch.look()) is not None:
                return bake

    def conclude(self, bake: Bake) -> str:
        return (
            Baking(self.world.settings, MODEL, self.policy, deployer=self.world.deployer(), actor="bake")
            .conclude(bake)
            .text
        )


@pytest.fixture
def site(world: World) -> Site:
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    return Site(world, Scripted())


@pytest.mark.parametrize("error", [NO_QUERY, DENIED])
def test_what_is_set_up_wrongly_ends_the_watch_at_the_first_look(site: Site, error: DeployError) -> None:
    site.metrics.error = error
    with pytest.raises(type(error)) as raised:
        site.verdict()
    assert raised.value.exit_code == 3
    assert len(site.metrics.asked) == 1
    assert site.world.ask() == (2, 2.0)
    assert site.world.folder.bakes.find(2) is None, "it bakes when that is corrected"


def test_what_was_right_a_moment_ago_is_waited_for(site: Site) -> None:
    """Whoever restarts a proxy answers 404 for a while."""
    watch = site.watch()
    site.world.later(60)
    assert watch.look() is None
    site.metrics.error = NO_QUERY
    for _ in range(PATIENCE - 1):
        site.world.later(60)
        assert watch.look() is None
    with pytest.raises(Misconfigured):
        watch.look()


def test_an_outage_before_does_not_make_it_right(site: Site) -> None:
    site.metrics.error = AWAY
    watch = site.watch()
    assert watch.look() is None
    site.metrics.error = DENIED
    with pytest.raises(AccessDenied):
        watch.look()


@pytest.mark.parametrize("no_data", ["pass", "hold", "revert"])
def test_a_prometheus_that_is_away_is_no_lack_of_traffic(site: Site, no_data: str) -> None:
    site.metrics.error = AWAY
    site.policy = replace(POLICY, no_data=no_data)
    bake = site.verdict()
    assert (bake.verdict, bake.unmeasured) == (BakeVerdict.NO_DATA, True)
    assert "could not be judged: Prometheus can't be reached. Check it; it stays live" in site.conclude(bake)
    assert site.world.ask() == (2, 2.0)


@pytest.mark.parametrize("away", ["pass", "hold", "revert"])
def test_a_lack_of_traffic_is_no_prometheus_that_is_away(site: Site, away: str) -> None:
    site.metrics.requests = 0
    site.policy = replace(POLICY, away=away)
    bake = site.verdict()
    assert (bake.verdict, bake.unmeasured) == (BakeVerdict.NO_DATA, False)
    assert "it stays live" in site.conclude(bake)


def test_a_prometheus_that_is_away_can_be_held_for_a_person(site: Site) -> None:
    site.metrics.error, site.policy = AWAY, replace(POLICY, away="hold")
    bake = site.verdict()
    with pytest.raises(BakeHeld, match="triton-deploy revert"):
        site.conclude(bake)
    assert site.world.ask() == (2, 2.0)


@pytest.mark.parametrize("away", [True, False])
def test_what_is_taken_back_unjudged_is_blamed_for_nothing(site: Site, away: bool) -> None:
    site.metrics.error, site.metrics.requests = (AWAY, 1000) if away else (None, 0)
    site.policy = replace(POLICY, **{"away" if away else "no_data": "revert"})
    bake = site.verdict()
    with pytest.raises(BakeFailed, match=r"could not be judged: .*Version 1 is live again") as raised:
        site.conclude(bake)
    assert "Nothing is known against the model" in raised.value.hint
    live = site.world.folder.releases.latest()
    assert live is not None
    assert live.reason.startswith("could not be judged: ")
    assert site.world.deploy("again").state is State.COMMITTED


def test_the_record_of_earlier_code_is_read(site: Site) -> None:
    bake = site.verdict()
    text = to_json(bake).replace('"unmeasured": false', '"unknown_to_this_code": 1')
    assert Bake.from_json(text) == bake


class NoAlerts:
    """An Alertmanager that does not answer."""

    def __init__(self, error: DeployError) -> None:
        self.error = error

    def firing(self, since: datetime) -> Set[Firing]:
        raise self.error


def with_alerts(site: Site, error: DeployError) -> Bake:
    observer = Observer(QUERIES, site.metrics, POLICY.limits, (NoAlerts(error), ("ShopIsDown",)))
    watch = Watch(site.world.folder, 2, POLICY, observer, lambda: site.world.now)
    while True:
        site.world.later(60)
        if (bake := watch.look()) is not None:
            return bake


def test_a_verdict_without_the_alerts_says_so(site: Site) -> None:
    bake = with_alerts(site, Unavailable("Alertmanager can't be reached.", hint="Check it."))
    assert bake.verdict is BakeVerdict.PASSED
    assert "the alerts are not known: Alertmanager can't be reached." in bake.reasons


def test_an_alertmanager_that_is_set_up_wrongly_ends_the_watch(site: Site) -> None:
    with pytest.raises(AccessDenied):
        with_alerts(site, AccessDenied("Alertmanager denies access (401).", hint="Correct it."))
