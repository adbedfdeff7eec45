"""A release is watched and taken back: everything but the servers is real, the repository's files included."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients.prometheus import Firing
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import BakeFailed, BakeHeld, InvalidInput, LeaseHeld, NotFound, Unavailable
from ml_code.triton_deploy.repository import durable
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.rules.deployment import State
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.release import BAKED_BADLY
from ml_code.triton_deploy.rules.standing import standings
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.bake import Baking
from ml_code.triton_deploy.watch.observer import Observer
from ml_code.triton_deploy.watch.policy import BakePolicy
from ml_code.triton_deploy.watch.queries import Queries
from ml_code.triton_deploy.watch.release_watch import PATIENCE, Watch
from tests.support.fakes import unavailable
from tests.support.settings import changed
from tests.support.world import MODEL, World

QUERIES = Queries.parse(
    {
        "sources": {
            "probe": {
                kind: f"{kind} $model $version $window $offset"
                for kind in ("requests", "failures", "latency_s")
            }
        },
        "checks": [{"name": "rows refused", "query": "refused $model", "max": 0.5}],
    }
)
POLICY = BakePolicy(
    duration_s=600, interval_s=60, window_s=120, bad_looks=2, limits=Limits(), alerts=("ShopIsDown",)
)
AWAY = Unavailable("Prometheus can't be reached: refused.", hint="Check it.")


@dataclass
class Metrics:
    """A Prometheus that says what a test wants, by version; and an Alertmanager."""

    requests: dict[int, float] = field(default_factory=dict)
    failures: dict[int, float] = field(default_factory=dict)
    latency_s: dict[int, float] = field(default_factory=dict)
    refused: float | None = None
    alerts: Set[Firing] = frozenset()
    away: bool = False
    asked: list[str] = field(default_factory=list)

    def value(self, query: str) -> float | None:
        self.asked.append(query)
        if self.away:
            raise AWAY
        kind, model, *rest = query.split()
        assert model == MODEL
        if kind == "refused":
            return self.refused
        found: dict[int, float] = getattr(self, kind)
        number = found.get(int(rest[0]))
        if number is None or kind == "latency_s" or int(rest[0]) != max(self.requests, default=0):
            return number
        return number * elapsed(rest)

    def firing(self, since: datetime) -> Set[Firing]:
        if self.away:
            raise AWAY
        return self.alerts


def elapsed(places: Sequence[str]) -> float:
    """Return the share of a look's time after which a question ends, by its version, window and offset: what a look sees came evenly."""
    window_s, ago_s = elapsed_s(places)
    return window_s / (window_s + ago_s)


def elapsed_s(places: Sequence[str]) -> tuple[float, float]:
    """Return how long a question looks back, and how long before now that ends, seconds."""
    window_s, *offset_s = (float(place.removesuffix("s")) for place in places[1:] if place != "offset")
    return window_s, sum(offset_s)


@dataclass
class Watched:
    """A release that bakes."""

    world: World
    metrics: Metrics
    policy: BakePolicy = POLICY

    def watch(self, generation: int = 2) -> Watch:
        observer = Observer(QUERIES, self.metrics, self.policy.limits, (self.metrics, self.policy.alerts))
        return Watch(self.world.folder, generation, self.policy, observer, lambda: self.world.now)

    def look_until_the_end(self, watch: Watch | None = None, most: int = 30) -> Bake:
        watch = watch or self.watch()
        for _ in range(most):
            self.world.later(self.policy.interval_s)
            bake = watch.look()
            if bake is not None:
                return bake
        raise AssertionError(f"no verdict after {most} looks")

    def baking(self, deployer: Deployer | None = None) -> Baking:
        return Baking(
            self.world.settings, MODEL, self.policy, deployer=deployer or self.world.deployer(), actor="bake"
        )


@pytest.fixture
def watched(world: World) -> Watched:
    """Version 1, an hour later version 2 is live; both are asked a lot and answer well."""
    world.register_times(1)
    world.deploy("d1")
    world.later(3600)
    world.register_times(2)
    world.deploy("d2")
    return Watched(world, Metrics({1: 1000, 2: 1000}, {}, {1: 0.02, 2: 0.02}))


# The watch


def test_a_good_release_passes_when_its_time_is_over(watched: Watched) -> None:
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.PASSED
    assert bake.reasons == ("probe saw 1000 requests",)
    assert (bake.looks, bake.judged) == (10, 10)
    assert bake.figures["probe"]["before"]["latency_s"] == 0.02


def test_two_bad_looks_fail_it_at_once(watched: Watched) -> None:
    watched.metrics.failures[2] = 200
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.FAILED
    assert bake.reasons == ("probe: 20.0% of 1000 requests failed, the limit is 1.0%",)
    assert bake.looks == 2


class ForAMinute(Metrics):
    """It fails every request of its second minute, and of no other: the window of 120 s has them in two looks."""

    age_s: Callable[[], float]

    def value(self, query: str) -> float | None:
        kind, _, *rest = query.split()
        if (kind, rest[:1]) != ("failures", ["2"]):
            return super().value(query)
        window_s, ago_s = elapsed_s(rest)
        end_s = self.age_s() - ago_s
        failing_s = min(end_s, 120) - max(end_s - window_s, 60)
        return self.requests[2] * max(0.0, failing_s) / (window_s + ago_s)


def test_failures_of_one_minute_are_one_bad_look_and_not_two(watched: Watched) -> None:
    began = watched.world.now

    def age_s() -> float:
        return (watched.world.now - began).total_seconds()

    watched.metrics = ForAMinute({1: 100_000, 2: 1000}, {}, {1: 0.02, 2: 0.02})
    watched.metrics.age_s = age_s
    watch = watched.watch()
    for _ in range(5):
        watched.world.later(60)
        assert watch.look() is None
    assert [bool(look.bad) for look in watch._looks] == [False, True, True, False, False]
    assert [look.stale for look in watch._looks] == [False, False, True, False, False]


def test_one_failure_of_a_hundred_and_fifty_takes_nothing_back(watched: Watched) -> None:
    watched.metrics.requests[2], watched.metrics.failures[2] = 151, 1
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.PASSED


def test_one_bad_look_between_good_ones_is_forgiven(watched: Watched) -> None:
    watch = watched.watch()
    for failures in (50, 0, 50, 0):
        watched.metrics.failures[2] = failures
        watched.world.later(60)
        assert watch.look() is None
    assert watched.look_until_the_end(watch).verdict is BakeVerdict.PASSED


def asked(watched: Watched, kind: str, version: int) -> list[str]:
    """Return the spans of time of the questions of one kind about one version, and ask anew."""
    begin = f"{kind} {MODEL} {version} "
    found = [query.removeprefix(begin).strip() for query in watched.metrics.asked if query.startswith(begin)]
    watched.metrics.asked.clear()
    return found


def test_the_previous_release_is_asked_about_at_the_same_time_before_the_commit_and_at_the_same_age(
    watched: Watched,
) -> None:
    watched.metrics.requests[1] = 0
    watch = watched.watch()
    watched.world.later(60)
    watch.look()
    assert asked(watched, "requests", 1) == ["60s", "600s offset 60s", "60s offset 3600s"]
    watched.world.later(240)
    watch.look()
    assert asked(watched, "requests", 1) == ["120s", "600s offset 300s", "120s offset 3600s"]


def test_a_previous_release_that_was_never_as_old_is_not_asked_at_that_age(world: World) -> None:
    """A source that does not tell versions apart would give this release's own figures for that time."""
    world.register_times(1)
    world.deploy("d1")
    world.later(30)
    world.register_times(2)
    world.deploy("d2")
    watched = Watched(world, Metrics({2: 1000}, {}, {2: 0.02}))
    watch = watched.watch()
    world.later(60)
    watch.look()
    assert asked(watched, "requests", 1) == ["60s", "30s offset 60s"]


def test_the_time_before_ends_when_clients_may_have_got_the_release(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.metrics.requests[1] = 0
    journal = watched.world.folder.journal
    record = journal.get("d2")
    flipped = utc_text(watched.world.now - timedelta(seconds=7))
    switched = replace(record, times_utc={**record.times_utc, State.SWITCHING: flipped})
    monkeypatch.setattr(type(journal), "find", lambda self, deploy_id: switched)
    watch = watched.watch()
    watched.world.later(60)
    watch.look()
    assert asked(watched, "requests", 1) == ["60s", "600s offset 67s", "60s offset 3600s"]


def test_what_saw_enough_is_compared_with_and_nothing_else_is_asked(watched: Watched) -> None:
    watch = watched.watch()
    watched.world.later(60)
    watch.look()
    assert asked(watched, "latency_s", 1) == ["60s"]


def test_the_last_look_is_about_the_whole_life(watched: Watched) -> None:
    watch = watched.watch()
    watched.world.later(600)
    assert watch.look() is not None
    assert asked(watched, "requests", 2) == ["600s"]


def test_little_traffic_is_judged_by_all_of_it(watched: Watched) -> None:
    class Trickle(Metrics):
        def value(self, query: str) -> float | None:
            kind, _, *rest = query.split()
            if kind == "requests":
                return float(rest[1].removesuffix("s"))
            return 0.2 * float(rest[1].removesuffix("s")) if (kind, rest[:1]) == ("failures", ["2"]) else None

    watched.policy = replace(POLICY, limits=Limits(min_requests=200))
    watched.metrics = Trickle()
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.FAILED
    assert bake.looks == 5, "no 120 s have 200 requests; at 240 s of age and 300 s all of them are enough"


def test_without_traffic_there_is_no_data(watched: Watched) -> None:
    watched.metrics.requests = {1: 1000}
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.NO_DATA
    assert bake.reasons == ("no source saw a request",)


def test_a_prometheus_that_is_away_is_no_data_and_not_a_bad_release(watched: Watched) -> None:
    watched.metrics.away = True
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.NO_DATA
    assert "can't be reached" in bake.reasons[0]


def test_a_prometheus_that_is_away_at_the_end_is_waited_for(watched: Watched) -> None:
    watch = watched.watch()
    watched.world.later(540)
    assert watch.look() is None
    watched.metrics.away = True
    for _ in range(PATIENCE - 1):
        watched.world.later(60)
        assert watch.look() is None
    watched.metrics.away = False
    watched.world.later(60)
    bake = watch.look()
    assert bake is not None
    assert bake.verdict is BakeVerdict.PASSED


def test_a_repository_that_can_not_be_read_is_no_data(watched: Watched) -> None:
    watch = watched.watch()
    (watched.world.root / MODEL / "releases" / "000002.json").write_text("{")
    assert watched.look_until_the_end(watch).verdict is BakeVerdict.NO_DATA


def test_somebody_who_reverts_ends_the_watch(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    watch = watched.watch()
    watched.world.later(60)
    assert watch.look() is None
    watched.world.deployer().revert(RevertRequest(model=MODEL, deploy_id="person"))
    bake = watched.look_until_the_end(watch)
    assert bake.verdict is BakeVerdict.SUPERSEDED
    assert bake.reasons == ("release 3 is live",)


def test_a_check_of_the_users_own_counts(watched: Watched) -> None:
    watched.metrics.refused = 0.7
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.FAILED
    assert bake.reasons == ("rows refused is 0.7, the limit is 0.5",)


@pytest.mark.parametrize(
    ("model", "verdict"),
    [("", BakeVerdict.FAILED), (MODEL, BakeVerdict.FAILED), ("another", BakeVerdict.PASSED)],
)
def test_an_alert_counts_that_fires_for_this_model_or_for_none(
    watched: Watched, model: str, verdict: BakeVerdict
) -> None:
    watched.metrics.alerts = {Firing("ShopIsDown", model), Firing("NotNamed", MODEL)}
    assert watched.look_until_the_end().verdict is verdict


@pytest.mark.parametrize("other", ["another", "zzz", "a"])
def test_an_alert_of_this_model_counts_when_it_fires_for_another_one_too(
    watched: Watched, other: str
) -> None:
    watched.metrics.alerts = {Firing("ShopIsDown", other), Firing("ShopIsDown", MODEL)}
    bake = watched.look_until_the_end()
    assert (bake.verdict, bake.reasons) == (BakeVerdict.FAILED, ("alert ShopIsDown fires",))


def test_an_alertmanager_that_is_away_hides_no_figures(watched: Watched) -> None:
    class NoAlerts(Metrics):
        def firing(self, since: datetime) -> Set[Firing]:
            raise AWAY

    watched.metrics = NoAlerts({2: 1000}, {2: 500}, {})
    assert watched.look_until_the_end().verdict is BakeVerdict.FAILED


def test_a_watch_that_is_begun_again_sees_the_whole_at_its_end(watched: Watched) -> None:
    watched.world.later(599)
    bake = watched.look_until_the_end(watched.watch())
    assert (bake.verdict, bake.looks) == (BakeVerdict.PASSED, 1)


def test_a_release_that_is_not_there_can_not_be_watched(watched: Watched) -> None:
    with pytest.raises(NotFound, match="no release 9"):
        watched.watch(9)


# Without anything to compare a latency with

NOT_COMPARED = "latency was not compared: nothing is known of another version's"


def without_a_baseline(watched: Watched, policy: str) -> Bake:
    watched.metrics.requests = {2: 1000}
    watched.policy = replace(POLICY, no_baseline=policy)
    return watched.look_until_the_end()


def test_a_latency_that_was_not_compared_is_told_and_passes(watched: Watched) -> None:
    bake = without_a_baseline(watched, "pass")
    assert (bake.verdict, bake.reasons) == (BakeVerdict.PASSED, ("probe saw 1000 requests", NOT_COMPARED))
    assert NOT_COMPARED in watched.baking().conclude(bake).text


def test_a_latency_that_was_not_compared_can_be_held_for_a_person(watched: Watched) -> None:
    bake = without_a_baseline(watched, "hold")
    assert bake.verdict is BakeVerdict.NO_DATA
    with pytest.raises(
        BakeHeld, match=f"could not be judged: probe saw 1000 requests; {NOT_COMPARED}; it stays live"
    ):
        watched.baking().conclude(bake)


def test_a_latency_that_was_not_compared_can_be_taken_back(watched: Watched) -> None:
    bake = without_a_baseline(watched, "revert")
    with pytest.raises(BakeFailed, match="Version 1 is live again"):
        watched.baking().conclude(bake)


def test_without_traffic_the_policy_for_no_data_decides_and_not_that_for_latencies(watched: Watched) -> None:
    watched.metrics.requests = {}
    watched.policy = replace(POLICY, no_baseline="revert")
    assert "it stays live" in watched.baking().conclude(watched.look_until_the_end()).text


def test_a_first_release_passes_without_a_latency_to_compare_with(world: World) -> None:
    world.register_times(1)
    world.deploy("d1")
    watched = Watched(world, Metrics({1: 1000}), replace(POLICY, no_baseline="revert"))
    assert watched.look_until_the_end(watched.watch(1)).verdict is BakeVerdict.PASSED


def test_a_slow_release_is_found_by_the_last_minutes_before_its_commit(watched: Watched) -> None:
    class Late(Metrics):
        """Nobody asked version 1 in its first minutes, and nobody does now."""

        def value(self, query: str) -> float | None:
            kind, _, *rest = query.split()
            _, ago_s = elapsed_s(rest) if len(rest) > 1 else (0, 0)
            silent = rest[:1] == ["1"] and (ago_s == 0 or ago_s >= 3600)
            return 0.0 if silent and kind == "requests" else super().value(query)

    watched.metrics = Late({1: 1000, 2: 1000}, {}, {1: 0.002, 2: 0.657})
    bake = watched.look_until_the_end()
    assert bake.verdict is BakeVerdict.FAILED
    assert bake.reasons == (
        "probe: answers take 657.0 ms, 2.0 ms those of the previous release before the commit",
    )


# What follows


def test_a_bad_release_is_taken_back_and_says_why_everywhere(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    bake = watched.look_until_the_end()
    with pytest.raises(BakeFailed) as raised:
        watched.baking().conclude(bake)
    assert raised.value.message == (
        "Release 2 (version 2) of best_model failed its bake: probe: 5.0% of 1000 requests failed, the limit is 1.0%. "
        "Version 1 is live again."
    )
    assert watched.world.ask() == (1, 1.0)
    release = watched.world.folder.releases.latest()
    assert release is not None
    assert (release.generation, release.active_version, release.actor) == (3, 1, "bake")
    assert release.reason == BAKED_BADLY + bake.reasons[0]
    assert watched.world.folder.bakes.find(2) == bake
    shown = standings(list(watched.world.folder.releases.history()), [])
    assert shown[2].tags()["reason"] == release.reason
    assert "reason" not in shown[1].tags()


def test_a_bad_release_is_taken_back_once(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    bake = watched.look_until_the_end()
    for said in ("Version 1 is live again", "Version 1 is live again"):
        with pytest.raises(BakeFailed, match=said):
            watched.baking().conclude(bake)
    assert watched.world.folder.releases.latest().generation == 3  # type: ignore[union-attr]
    assert watched.world.ask() == (1, 1.0)


def test_a_newer_release_is_not_taken_back_for_an_older_one(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    bake = watched.look_until_the_end()
    watched.world.register_times(3)
    watched.world.deploy("d3")
    with pytest.raises(BakeFailed, match="not live any more"):
        watched.baking().conclude(bake)
    assert watched.world.ask() == (3, 3.0)


def test_a_revert_of_a_person_is_not_reverted(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    bake = watched.look_until_the_end()
    watched.world.deployer().revert(RevertRequest(model=MODEL, deploy_id="person"))
    with pytest.raises(BakeFailed, match="not live any more"):
        watched.baking().conclude(bake)
    assert watched.world.ask() == (1, 1.0)


def test_the_first_release_of_all_stays_when_it_is_bad(world: World) -> None:
    world.register_times(1)
    world.deploy("d1")
    watched = Watched(world, Metrics({1: 1000}, {1: 500}))
    bake = watched.look_until_the_end(watched.watch(1))
    with pytest.raises(BakeFailed, match="nothing to go back to"):
        watched.baking().conclude(bake)
    assert world.ask() == (1, 1.0)


def test_a_triton_that_is_away_leaves_the_verdict_and_the_next_try_takes_it_back(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    bake = watched.look_until_the_end()
    watched.world.triton.fail["ready_versions"] = unavailable()
    with pytest.raises(Unavailable):
        watched.baking().conclude(bake)
    watched.world.triton.fail.clear()
    recorded = watched.baking().recorded(2)
    assert recorded == bake
    with pytest.raises(BakeFailed, match="Version 1 is live again"):
        watched.baking().conclude(recorded)
    assert watched.world.ask() == (1, 1.0)


def test_a_deploy_that_is_under_way_is_waited_for(watched: Watched) -> None:
    watched.metrics.failures[2] = 50
    bake = watched.look_until_the_end()
    watched.world.register_times(3)
    watched.world.deployer().snapshot(watched.world.request("d3"))
    with pytest.raises(LeaseHeld):
        watched.baking().conclude(bake)
    assert watched.world.ask() == (2, 2.0)

    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        watched.world.deployer().rollback(MODEL, "d3")

    settings = changed(watched.world.settings, bake__prometheus_url="http://prometheus")
    baking = Baking(settings, MODEL, POLICY, deployer=watched.world.deployer())
    with pytest.raises(BakeFailed, match="Version 1 is live again"):
        baking.run(2, pause=pause)
    assert len(pauses) == 1


def test_the_first_verdict_of_two_watchers_counts(watched: Watched) -> None:
    good = watched.look_until_the_end()
    watched.baking().conclude(good)
    bad = replace(good, verdict=BakeVerdict.FAILED, reasons=("slow",))
    assert "passed its bake" in watched.baking().conclude(bad).text
    assert watched.world.ask() == (2, 2.0)


def no_data(watched: Watched, policy: str) -> Callable[[], object]:
    watched.metrics.requests = {}
    watched.policy = replace(POLICY, no_data=policy)
    bake = watched.look_until_the_end()
    return lambda: watched.baking().conclude(bake)


def test_no_data_passes_with_a_warning(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    no_data(watched, "pass")()
    assert "could not be judged: no source saw a request; it stays live" in caplog.text
    assert watched.world.ask() == (2, 2.0)


def test_no_data_can_be_held_for_a_person(watched: Watched) -> None:
    with pytest.raises(BakeHeld, match="triton-deploy revert best_model"):
        no_data(watched, "hold")()
    assert watched.world.ask() == (2, 2.0)


def test_no_data_can_be_taken_back(watched: Watched) -> None:
    with pytest.raises(BakeFailed, match=r"no source saw a request\. Version 1 is live again"):
        no_data(watched, "revert")()
    assert watched.world.ask() == (1, 1.0)


# Its records and settings


def test_a_bake_is_read_back_as_it_was_written(watched: Watched) -> None:
    bake = watched.look_until_the_end()
    assert Bake.from_json(to_json(bake)) == bake
    assert watched.world.folder.bakes.latest() is None
    watched.world.folder.bakes.add(bake)
    assert watched.world.folder.bakes.latest() == bake


def test_without_a_prometheus_or_for_no_minutes_nothing_is_watched() -> None:
    asked = changed(Settings(), bake__prometheus_url="http://prometheus")
    assert BakePolicy.of(Settings()).duration_s == 0
    assert BakePolicy.of(asked).duration_s == 900
    assert BakePolicy.of(asked, 0).duration_s == 0
    assert BakePolicy.of(asked, 0.5).duration_s == 30
    assert BakePolicy.of(asked, 43_200).duration_s == 30 * 86_400
    for minutes in (-1, float("nan"), float("inf"), 43_201, 1e9):
        with pytest.raises(InvalidInput):
            BakePolicy.of(asked, minutes)


def test_a_dry_run_judges_and_changes_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.metrics.failures[2] = 50
    monkeypatch.setattr(Watch, "of", lambda *_: watched.watch())
    with pytest.raises(BakeFailed, match="nothing was changed"):
        watched.baking().run(2, pause=watched.world.later, act=False)
    assert watched.world.ask() == (2, 2.0)
    assert watched.world.folder.bakes.find(2) is None
    assert watched.world.folder.bakes.watched_until(2) is None


def test_a_watch_is_noted_for_the_page_while_it_lasts(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "of", lambda *_: watched.watch())
    bakes, committed, seen = watched.world.folder.bakes, watched.world.now, []

    def pause(seconds: float) -> None:
        seen.append(bakes.watched_until(2))
        watched.world.later(seconds)

    watched.baking().run(2, pause=pause)
    assert set(seen) == {committed + timedelta(seconds=POLICY.duration_s)}
    assert bakes.watched_until(2) is None


def test_a_note_that_can_not_be_written_ends_no_watch(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "replace_file", full)
    watched.baking().note_watch(watched.watch().release)
    assert "No space left" in caplog.text
