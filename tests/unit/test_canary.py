"""A canary on fakes: what the record says of the clients' traffic, what a gateway makes of it, and how it ends."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.gateway.front import deploy_metrics
from ml_code.gateway.triton.release_follower import ReleaseFollower
from ml_code.triton_deploy.errors import (
    AccessDenied,
    DeployError,
    EndedTriton,
    IllegalTransition,
    InvalidInput,
    Misconfigured,
    NotFound,
    Unavailable,
    VerificationFailed,
)
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.rules.canary import STEPS_PATTERN, Exposure, canary_of, steps_of
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Judgment, Watched
from ml_code.triton_deploy.rules.deployment import Canary, Deployment, State
from ml_code.triton_deploy.rules.names import engine_name
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.watch.canary_judge import CanaryJudge
from ml_code.triton_deploy.watch.observer import Observer
from ml_code.triton_deploy.watch.queries import Queries
from tests.support.canaries import SHARES, SILENCE_S, Scene
from tests.support.fakes import FakeTriton, unavailable
from tests.support.models import files, golden, times
from tests.support.world import MODEL, World


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


# From step to step


def test_a_good_candidate_gets_a_growing_share_and_is_committed(scene: Scene) -> None:
    assert scene.deploy().state is State.COMMITTED
    assert list(dict.fromkeys(scene.seen)) == [(5, 0), (25, 0), (50, 0)]
    assert scene.world.ask() == (2, 2.0)
    assert scene.exposure is None, "who is live needs no share"
    looks = [watched for watched in scene.watched if not watched.mirrored]
    assert {(watched.candidate, watched.live) for watched in looks} == {(2, 1)}
    assert max(watched.seconds for watched in looks) == 120
    assert len(looks) == 3 * 120 / scene.world.settings.canary.interval_s


def test_a_shadow_comes_before_the_first_share(scene: Scene) -> None:
    scene.deploy("50", shadow=30)
    assert list(dict.fromkeys(scene.seen)) == [(0, 30), (50, 0)]
    assert {watched.mirrored for watched in scene.watched} == {True, False}


def test_between_the_last_step_and_the_commit_clients_stay_where_they_are(scene: Scene) -> None:
    deployer = scene.until_canary("5,100")
    deployer.canary(MODEL, "d2")
    assert scene.record.state is State.TRIED
    assert scene.share == 100
    deployer.commit(MODEL, "d2")
    assert scene.share == 0
    assert scene.world.ask() == (2, 2.0)


def test_a_bad_candidate_loses_its_share_at_once(scene: Scene) -> None:
    scene.verdict = lambda watched: CanaryVerdict.FAIL if watched.seconds > 60 else CanaryVerdict.PASS
    deployer = scene.until_canary()
    with pytest.raises(VerificationFailed, match="5 % answered by the candidate: so the test says"):
        deployer.canary(MODEL, "d2")
    assert scene.share == 0, "before anybody has come to the rollback"
    assert deployer.rollback(MODEL, "d2").state is State.ROLLED_BACK  # type: ignore[union-attr]
    assert scene.share == 0
    assert max(share for share, _ in scene.seen) == 5
    assert scene.world.ask() == (1, 1.0)
    failure = scene.record.failure
    assert failure is not None
    assert (failure.step, failure.kind) == ("canary", "verification_failed")
    assert any(name.startswith("2.failed_") for name in scene.world.names)


def test_a_rollback_in_the_middle_takes_the_share_away(scene: Scene) -> None:
    deployer = scene.until_canary()
    deployer.look_at_canary(MODEL, "d2")
    assert scene.share == 5
    deployer.rollback(MODEL, "d2")
    assert scene.share == 0
    with pytest.raises(DeployError):
        deployer.look_at_canary(MODEL, "d2")
    assert scene.share == 0


def test_the_commit_waits_for_the_canary(scene: Scene) -> None:
    deployer = scene.until_canary()
    for _ in range(2):
        with pytest.raises(IllegalTransition, match="canary is due, not commit"):
            deployer.commit(MODEL, "d2")
        deployer.look_at_canary(MODEL, "d2")
    assert scene.world.ask() == (1, 1.0)


def test_without_a_canary_there_is_nothing_to_look_at(scene: Scene) -> None:
    deployer = scene.until_canary(shares="")
    assert deployer.look_at_canary(MODEL, "d2") is None
    assert scene.record.state is State.VERIFIED
    assert deployer.commit(MODEL, "d2").state is State.COMMITTED
    assert State.TRIED not in scene.record.times_utc


def test_a_first_release_shares_with_nobody(world: World) -> None:
    world.register_times(1)
    request = world.request("d1", canary=canary_of(SHARES, 20, 2))
    assert world.deployer(bake__prometheus_url="http://p:9090").deploy(request).state is State.COMMITTED


@pytest.mark.parametrize(("shares", "shadow"), [("5,25", 0), ("", 20), ("pause", 0)])
def test_a_canary_or_shadow_that_nobody_would_judge_is_refused_at_once(
    scene: Scene, shares: str, shadow: int
) -> None:
    deployer, request = scene.world.deployer(), scene.world.request("d2", canary=canary_of(shares, shadow, 2))
    with pytest.raises(Misconfigured, match="TRITON_DEPLOY_PROMETHEUS_URL is not set: nothing was done"):
        deployer.deploy(request)
    assert scene.world.folder.journal.find("d2") is None
    plan = deployer.plan_deploy(request)
    assert isinstance(plan.obstacles[0], Misconfigured)
    assert plan.exit_code == 3


def test_a_candidate_that_the_clients_could_not_use_gets_no_share(scene: Scene) -> None:
    scene.world.register(2, files(times(2.0, target="z"), triton__golden_json=golden(2.0, target="z")))
    with pytest.raises(DeployError, match="output y"):
        scene.deploy(allow_schema_change=True)
    assert scene.seen == []


# Nobody watches


def test_a_deployer_that_died_leaves_no_share(scene: Scene) -> None:
    deployer = scene.until_canary()
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(SILENCE_S - 1)
    assert scene.share == 5
    scene.world.later(2)
    assert scene.share == 0


def test_a_watch_that_goes_on_after_a_gap_begins_the_step_anew(scene: Scene) -> None:
    deployer = scene.until_canary()
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(110)
    deployer.look_at_canary(MODEL, "d2")
    assert scene.share == 5
    assert scene.watched == [], "what was seen in the gap says nothing"
    scene.world.later(60)
    deployer.look_at_canary(MODEL, "d2")
    assert [watched.seconds for watched in scene.watched] == [60]


def test_a_gateway_that_can_read_nothing_any_more_ends_the_share_by_itself(scene: Scene) -> None:
    passed = [0.0]
    follower = ReleaseFollower(scene.world.root, lambda: passed[0], lambda: scene.world.now)
    scene.until_canary().look_at_canary(MODEL, "d2")
    follower.look()
    passed[0] = SILENCE_S - 1
    assert follower.exposure(MODEL) is not None
    passed[0] = SILENCE_S + 1
    assert follower.exposure(MODEL) is None


def test_a_record_or_lease_that_is_torn_or_gone_means_live(scene: Scene) -> None:
    scene.until_canary().look_at_canary(MODEL, "d2")
    assert scene.share == 5
    folder = scene.world.root / MODEL
    last = sorted((folder / "deployments/d2").iterdir())[-1]
    lease = sorted((folder / "leases").iterdir())[-1]
    for path in (last, lease):
        whole = path.read_text()
        for torn in ("", whole[: len(whole) // 2], "[]", '{"canary": {}}'):
            path.write_text(torn)
            assert scene.share == 0, (path, torn)
        path.write_text(whole)
        assert scene.share == 5
    for path in folder.glob("deployments/d2/*"):
        path.unlink()
    assert scene.share == 0


def test_an_end_that_a_wrong_clock_wrote_is_not_believed(scene: Scene) -> None:
    scene.until_canary().look_at_canary(MODEL, "d2")
    scene.world.later(-3600)
    assert scene.share == 0


def test_a_release_that_somebody_else_committed_ends_the_share(scene: Scene) -> None:
    """As when the clock let the lease run out, and this deployer was only slow."""
    deployer = scene.until_canary()
    deployer.look_at_canary(MODEL, "d2")
    current = json.loads((scene.world.root / MODEL / "current.json").read_text())
    release = json.dumps(current | {"generation": 2, "deploy_id": "other"})
    (scene.world.root / MODEL / "releases/000002.json").write_text(release)
    (scene.world.root / MODEL / "current.json").write_text(release)
    assert scene.share == 0
    with pytest.raises(DeployError, match="was committed since"):
        deployer.look_at_canary(MODEL, "d2")


# On one Triton


@pytest.fixture
def two(scene: Scene) -> Scene:
    """Two Tritons, both with the live version."""
    second = FakeTriton(scene.world.root, "fake:2")
    second.restart(engine_name(MODEL, 1), MODEL)
    scene.tritons.append(second)
    return scene


def test_all_steps_are_on_the_triton_that_had_the_candidate_first(two: Scene) -> None:
    deployer = two.until_canary()
    two.tritons[0].fail["ready_versions"] = unavailable()
    deployer.look_at_canary(MODEL, "d2")
    assert two.exposure is not None
    assert (two.exposure.triton, two.exposure.tritons) == ("fake:2", ("fake:1", "fake:2"))
    two.tritons[0].fail.clear()
    on = set()
    while deployer.look_at_canary(MODEL, "d2") is not None:
        two.world.later(15)
        assert two.record.canary is not None
        on.add((two.record.canary.step, two.record.canary.triton))
    assert on == {(step, "fake:2") for step in (1, 2, 3)}


def test_a_triton_that_does_not_have_the_candidate_is_not_the_one(two: Scene) -> None:
    deployer = two.until_canary()
    two.tritons[0].unload(engine_name(MODEL, 2), 1)
    deployer.look_at_canary(MODEL, "d2")
    assert two.record.canary is not None
    assert two.record.canary.triton == "fake:2"


@pytest.mark.parametrize(("silent", "error"), [(True, Unavailable), (False, NotFound)])
def test_a_canary_does_not_begin_where_no_triton_has_the_candidate(
    two: Scene, error: type[DeployError], *, silent: bool
) -> None:
    deployer = two.until_canary()
    for triton in two.tritons:
        triton.unload(engine_name(MODEL, 2), 1)
    if silent:
        two.tritons[0].fail["ready_versions"] = unavailable()
    with pytest.raises(error):
        deployer.look_at_canary(MODEL, "d2")
    assert two.share == 0


def test_earlier_code_reads_a_record_that_names_a_triton_and_this_code_reads_one_that_does_not(
    scene: Scene,
) -> None:
    deployer = scene.until_canary()
    deployer.look_at_canary(MODEL, "d2")
    written = json.loads(to_json(scene.record))
    assert written["canary"].keys().isdisjoint({"triton", "tritons"}), "it refuses what it does not know"
    assert Deployment.from_json(to_json(scene.record)) == scene.record
    newer = written["canary"] | {"of_tomorrow": 1}
    assert Deployment.from_json(json.dumps(written | {"canary": newer})) == scene.record
    earlier = Deployment.from_json(json.dumps({k: v for k, v in written.items() if k != "canary_added"}))
    assert earlier.canary is not None
    assert (earlier.canary.triton, earlier.canary.tritons) == ("", ())
    scene.world.folder.journal.append(earlier, scene.record)
    assert scene.exposure is not None
    assert scene.exposure.triton == ""


def test_a_candidate_that_ended_its_triton_is_stopped_at_the_next_look(scene: Scene) -> None:
    scene.verdict = lambda watched: CanaryVerdict.ENDED if watched.seconds > 20 else CanaryVerdict.PASS
    deployer = scene.until_canary()
    assert scene.world.settings.bake.bad_looks > 1
    with pytest.raises(
        EndedTriton, match="Triton at fake:1 ended while it had a request of version 2"
    ) as told:
        deployer.canary(MODEL, "d2")
    assert "triton-deploy deploy best_model --alias A --force" in told.value.hint
    assert len(scene.watched) == 2
    assert scene.share == 0
    failure = scene.record.failure
    assert failure is not None
    assert (failure.kind, failure.blames_artifact, failure.suspect) == ("ended_triton", True, True)
    assert scene.record.ended.keys() == {"fake:1"}


def test_a_candidate_that_its_triton_has_lost_is_given_up_at_the_look_after_and_not_blamed(
    scene: Scene,
) -> None:
    """The gateway whose request ended the Triton may be scraped after the one that found nothing there."""
    scene.verdict = lambda watched: CanaryVerdict.GONE
    deployer = scene.until_canary()
    with pytest.raises(NotFound, match="does not have version 2"):
        deployer.canary(MODEL, "d2")
    assert len(scene.watched) == 2
    failure = scene.record.failure
    assert failure is not None
    assert not failure.blames_artifact


def test_a_candidate_that_ended_a_triton_is_blamed_also_when_it_was_first_seen_to_be_gone(
    scene: Scene,
) -> None:
    scene.verdict = lambda watched: CanaryVerdict.ENDED if len(scene.watched) > 1 else CanaryVerdict.GONE
    with pytest.raises(EndedTriton):
        scene.until_canary().canary(MODEL, "d2")


def test_no_step_ends_well_with_a_candidate_that_is_gone(scene: Scene) -> None:
    scene.verdict = lambda watched: CanaryVerdict.GONE if watched.seconds >= 120 else CanaryVerdict.PASS
    with pytest.raises(NotFound):
        scene.until_canary().canary(MODEL, "d2")
    assert scene.record.canary is not None
    assert scene.record.canary.step == 1


def test_what_happened_before_a_step_began_anew_is_not_forgotten(scene: Scene) -> None:
    deployer = scene.until_canary()
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(SILENCE_S + 20)
    deployer.look_at_canary(MODEL, "d2")
    scene.world.later(15)
    deployer.look_at_canary(MODEL, "d2")
    [watched] = scene.watched
    assert (watched.seconds, watched.exposed_s) == (15, SILENCE_S + 35)


# What gateways counted of a candidate that they do not ask any more


class Counted:
    """A Prometheus that knows how often an outcome was counted, and nothing of figures."""

    def __init__(self, **counts: float) -> None:
        self.counts = counts
        self.asked: list[str] = []

    def value(self, query: str) -> float | None:
        self.asked.append(query)
        return next((n for outcome, n in self.counts.items() if f'outcome="{outcome}"' in query), None)


OWN_QUERIES = {"sources": {"own": dict.fromkeys(("requests", "failures", "latency_s"), "vector(1000)")}}


class Steady(Counted):
    """One that also has figures which nobody could complain of."""

    def value(self, query: str) -> float | None:
        return 1000.0 if query == "vector(1000)" else super().value(query)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({}, CanaryVerdict.NO_DATA),
        ({"ended": 1}, CanaryVerdict.ENDED),
        ({"ended": 1, "absent": 2, "unplaced": 3}, CanaryVerdict.ENDED),
        ({"absent": 1}, CanaryVerdict.GONE),
        ({"unplaced": 1}, CanaryVerdict.NO_DATA),
    ],
)
def test_one_count_is_enough_whatever_the_queries_of_the_user_are(
    counts: dict[str, float], verdict: CanaryVerdict
) -> None:
    metrics = Counted(**counts)
    judge = CanaryJudge(Observer(Queries.parse(OWN_QUERIES), metrics, Limits()), metrics)
    judgment = judge(Watched(MODEL, 2, 1, False, 30.4, 99.2))
    assert judgment.verdict is verdict
    assert ("GATEWAY_TRITON_GRPC_URLS" in judgment.why) is (set(counts) == {"unplaced"})
    for counter in ("gateway_canary_failures_total", "gateway_shadow_requests_total"):
        assert f'{counter}{{model="best_model", version="2", outcome="ended"}}[100s]' in metrics.asked[0]


def test_a_gateway_that_can_not_place_the_candidate_does_not_hide_what_others_saw() -> None:
    metrics = Steady(unplaced=5)
    judge = CanaryJudge(Observer(Queries.parse(OWN_QUERIES), metrics, Limits(max_latency_s=0.5)), metrics)
    judgment = judge(Watched(MODEL, 2, 1, False, 30, 30))
    assert judgment.verdict is CanaryVerdict.FAIL, "its answers take 1000 s"


def test_a_prometheus_that_is_away_says_nothing() -> None:
    class Away:
        def value(self, query: str) -> float | None:
            raise Unavailable("Prometheus is away.", hint="Wait.")

    judge = CanaryJudge(Observer(Queries.parse(OWN_QUERIES), Away(), Limits()), Away())
    assert judge(Watched(MODEL, 2, 1, False, 30, 30)) == Judgment(
        CanaryVerdict.UNMEASURED, "Prometheus is away. Wait"
    )


@pytest.mark.parametrize("error", [Misconfigured, AccessDenied])
def test_a_prometheus_that_is_wrong_ends_the_canary_at_its_first_look_and_blames_nobody(
    scene: Scene, error: type[DeployError]
) -> None:
    class Wrong:
        def value(self, query: str) -> float | None:
            raise error("Prometheus denies access (401).", hint="Correct it.")

    deployer = scene.deployer(CanaryJudge(Observer(Queries.parse(OWN_QUERIES), Wrong(), Limits()), Wrong()))
    with pytest.raises(error) as told:
        deployer.deploy(scene.world.request("d2", canary=canary_of("10", 0, 2)))
    assert told.value.exit_code == 3
    assert len(scene.seen) == 1
    failure = scene.record.failure
    assert failure is not None
    assert not failure.blames_artifact


# What people and Prometheus are told


def test_a_dry_run_says_how_long_is_watched(scene: Scene) -> None:
    plan = scene.deployer().plan_deploy(scene.world.request("d2", canary=canary_of("5,pause,25", 10, 2)))
    assert plan.does[1:] == (
        "watch 2 minutes each, and until 100 requests were seen, 60 minutes longer at most: 10 % mirrored to the candidate, "
        "5 % answered by the candidate (then wait for a person), 25 % answered by the candidate",
        "make it live as release 2",
    )


def test_a_canary_is_no_deploy_that_is_stuck_and_a_step_of_its_own(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        @staticmethod
        def now(zone: object) -> datetime:
            return scene.world.now

        fromisoformat = datetime.fromisoformat

    monkeypatch.setattr(deploy_metrics, "datetime", Clock)
    metrics = deploy_metrics.DeployMetrics(scene.world.root)

    def value(name: str) -> float:
        found = [line for line in metrics.text().decode().splitlines() if line.startswith(name)]
        return float(found[0].rsplit(" ", 1)[1])

    deployer = scene.until_canary("5")
    for _ in range(8):
        deployer.look_at_canary(MODEL, "d2")
        scene.world.later(15)
    assert value("triton_deploy_unfinished_age_seconds") == 0
    scene.world.later(SILENCE_S + 60)
    assert value("triton_deploy_unfinished_age_seconds") > 60
    deployer.canary(MODEL, "d2")
    scene.world.later(7)
    deployer.commit(MODEL, "d2")
    of_step = 'triton_deploy_step_duration_seconds{model="best_model",step="%s"}'
    assert value(of_step % "canary") == pytest.approx(8 * 15 + SILENCE_S + 60 + 120)
    assert value(of_step % "commit") == pytest.approx(7)


# What is asked for


@pytest.mark.parametrize(
    ("shares", "shadow", "minutes"),
    [
        ("5,5", 0, 1),
        ("25,5", 0, 1),
        ("0,5", 0, 1),
        ("101", 0, 1),
        ("5;25", 0, 1),
        ("5,", 0, 1),
        ("five", 0, 1),
        (",".join(map(str, range(1, 12))), 0, 1),
        ("5", -1, 1),
        ("5", 101, 1),
        ("5", 0, 0),
        ("5", 0, -1),
        ("5,25", 0, 300),
        ("5", 0, float("nan")),
        ("pause,pause", 0, 1),
        ("5,pause,pause,25", 0, 1),
        ("pause,0,5", 0, 1),
        ("5,halt", 0, 1),
        ("\u0665", 0, 1),
    ],
)
def test_what_can_not_be_meant_is_refused(shares: str, shadow: int, minutes: float) -> None:
    with pytest.raises(InvalidInput):
        canary_of(shares, shadow, minutes)


def test_no_share_is_no_canary() -> None:
    assert canary_of("", 0, 10) is None
    canary = canary_of(" 5, 25 ", 20, 10)
    assert canary == Canary(shares_percent=(5, 25), shadow_percent=20, step_s=600)
    assert [str(step) for step in steps_of(canary)] == [
        "20 % mirrored to the candidate",
        "5 % answered by the candidate",
        "25 % answered by the candidate",
    ]


@pytest.mark.parametrize(
    ("shares", "shadow", "steps", "waits"),
    [
        ("5, pause ,25", 0, (5, 25), (1,)),
        ("5,25,pause", 10, (5, 25), (3,)),
        ("pause,5", 10, (5,), (1,)),
        ("pause,5", 0, (0, 5), (1,)),
        ("pause", 0, (0,), (1,)),
        ("pause", 10, (), (1,)),
    ],
)
def test_a_pause_is_of_the_step_before_it_and_testers_alone_come_before_all(
    shares: str, shadow: int, steps: tuple[int, ...], waits: tuple[int, ...]
) -> None:
    canary = canary_of(shares, shadow, 10)
    assert canary is not None
    assert (canary.shares_percent, canary.waits) == (steps, waits)
    assert re.match(STEPS_PATTERN, shares)


@given(st.binary(min_size=1), st.sampled_from([(1, 5), (5, 25), (25, 100)]))
def test_a_client_that_has_met_the_candidate_stays_with_it(key: bytes, shares: tuple[int, int]) -> None:
    few, more = (Exposure("d2", 2, share, 0, 60) for share in shares)
    assert more.answers(key) >= few.answers(key)
    assert Exposure("d2", 2, 100, 0, 60).answers(key)
    assert not Exposure("d2", 2, 0, 0, 60).answers(key)


def test_a_share_is_that_share_of_the_clients_and_another_one_in_the_next_deployment() -> None:
    keys = [str(number).encode() for number in range(20_000)]
    first, second = (
        {key for key in keys if Exposure(deploy_id, 2, 5, 0, 60).answers(key)} for deploy_id in ("d2", "d3")
    )
    assert 0.045 < len(first) / len(keys) < 0.055
    assert len(first & second) / len(first) < 0.1
