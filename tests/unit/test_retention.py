"""The rule of what goes: never what something needs, and the same again right after."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from ml_code.triton_deploy.rules.deployment import TRANSITIONS, Deployment, State
from ml_code.triton_deploy.rules.gc_rules import GRACE, Found, Inventory, Kind, Policy, judge
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.release import Release
from tests.support.recorded import LIVE, NOW, RECORD

POLICY = Policy(releases=2, quarantined=1, days=7)


def release(
    generation: int, version: int, previous: int | None = None, warm: tuple[int, ...] = ()
) -> Release:
    return replace(
        LIVE,
        generation=generation,
        active_version=version,
        previous_version=previous,
        warm_versions=warm,
        deploy_id=f"r{generation}",
    )


def deployment(deploy_id: str, state: State, days: float, version: int = 99) -> Deployment:
    return replace(
        RECORD,
        deploy_id=deploy_id,
        state=state,
        pinned=replace(RECORD.pinned, version=version),
        base_version=None,
        times_utc={state: utc_text(NOW - timedelta(days=days))},
    )


def found(deploy_id: str, days: float) -> Found:
    return Found(deploy_id=deploy_id, since=NOW - timedelta(days=days))


EMPTY = Inventory(releases=(), versions={}, quarantined={}, engines=frozenset(), deployments=())


def gone(inventory: Inventory, policy: Policy = POLICY) -> set[str]:
    return {verdict.name for verdict in judge(inventory, policy, NOW) if verdict.goes}


def why(inventory: Inventory, name: str, policy: Policy = POLICY) -> str:
    return next(verdict.why for verdict in judge(inventory, policy, NOW) if verdict.name == name)


# Versions


def test_versions_of_older_releases_go() -> None:
    inventory = replace(
        EMPTY,
        releases=tuple(release(number, number) for number in (4, 3, 2, 1)),
        versions={number: found(f"r{number}", 0) for number in (1, 2, 3, 4)},
    )
    assert gone(inventory) == {"1", "2"}
    assert why(inventory, "4") == "live, release 4"
    assert why(inventory, "1") == "no release of the last 2 is of it"


def test_what_is_warm_or_was_replaced_stays_beyond_the_last_releases() -> None:
    inventory = replace(
        EMPTY,
        releases=(release(6, 5, previous=2, warm=(3,)), release(5, 4), release(4, 1)),
        versions={number: found("r", 90) for number in (1, 2, 3, 4, 5)},
    )
    few = replace(POLICY, releases=0)
    assert gone(inventory, few) == {"1", "4"}
    assert why(inventory, "2", few) == "replaced by the live version"
    assert why(inventory, "3", few) == "warm"


def test_what_a_deployment_that_has_not_ended_needs_stays() -> None:
    begun = replace(deployment("d", State.PINNED, 90, version=1), base_version=2)
    inventory = replace(
        EMPTY,
        releases=(release(9, 8), release(8, 7), release(2, 2), release(1, 1)),
        versions={number: found("r", 90) for number in (1, 2, 7, 8)},
        deployments=(begun,),
    )
    assert gone(inventory) == set()
    assert gone(replace(inventory, deployments=())) == {"1", "2"}


def test_a_version_whose_engine_is_still_there_waits_for_the_reconcile() -> None:
    inventory = replace(
        EMPTY,
        releases=(release(3, 3), release(2, 2), release(1, 1)),
        versions={1: found("r1", 90)},
        engines=frozenset({1}),
    )
    assert "engine" in why(inventory, "1")
    assert gone(inventory) == set()
    assert gone(replace(inventory, engines=frozenset({2}))) == {"1"}


def test_a_version_that_nobody_released_goes_after_a_while() -> None:
    late = replace(EMPTY, versions={5: found("woke-up-late", 8)})
    assert gone(late) == {"5"}
    assert gone(replace(EMPTY, versions={5: found("woke-up-late", 6)})) == set()


def test_what_has_no_manifest_is_not_ours() -> None:
    inventory = replace(EMPTY, versions={5: found("", 900)}, quarantined={"5.failed_mine": found("", 900)})
    assert gone(inventory) == set()
    assert "not ours" in why(inventory, "5")
    assert "not ours" in why(inventory, "5.failed_mine")


# Quarantine


def test_quarantines_go_by_age_and_by_count() -> None:
    inventory = replace(
        EMPTY, quarantined={f"{days}.failed_x": found(f"q{days}", days) for days in (2, 3, 6, 8)}
    )
    assert gone(inventory) == {"3.failed_x", "6.failed_x", "8.failed_x"}
    assert gone(inventory, replace(POLICY, quarantined=9)) == {"8.failed_x"}
    assert gone(inventory, replace(POLICY, quarantined=0)) == set(inventory.quarantined)


def test_a_quarantine_stays_for_a_day_and_as_long_as_its_deployment_has_not_ended() -> None:
    inventory = replace(EMPTY, quarantined={"1.failed_x": found("d", 0.9), "2.failed_x": found("d", 90)})
    nothing = Policy(releases=0, quarantined=0, days=0)
    assert gone(inventory, nothing) == {"2.failed_x"}
    under_way = replace(inventory, deployments=(deployment("d", State.ROLLING_BACK, 90),))
    assert gone(under_way, nothing) == set()


# Deployments


def test_records_of_ended_deployments_go_unless_something_is_of_them() -> None:
    inventory = replace(
        EMPTY,
        releases=(release(3, 3), release(2, 2), release(1, 1)),
        versions={3: found("r3", 90)},
        quarantined={"4.failed_x": found("q", 2)},
        deployments=tuple(
            deployment(name, State.COMMITTED, days)
            for name, days in {"r1": 8, "r2": 8, "r3": 8, "q": 8, "held": 8, "old": 8, "new": 6}.items()
        ),
        holder="held",
    )
    assert gone(inventory) == {"r1", "old"}
    assert why(inventory, "held") == "it has the lease"
    assert why(inventory, "q") == "it brought 4.failed_x"
    assert why(inventory, "r2") == "release 2"


def test_a_deployment_that_has_not_ended_is_never_removed() -> None:
    for state in State:
        unfinished = bool(TRANSITIONS[state])
        inventory = replace(EMPTY, deployments=(deployment("d", state, 900),))
        assert gone(inventory) == (set() if unfinished else {"d"})


# Whatever there is

DAYS = st.sampled_from([0.0, 0.5, 0.99, 1.01, 2, 6, 8, 40])
VERSION = st.integers(1, 6)
IDS = st.sampled_from(["", "r1", "r2", "r3", "d1", "d2", "d3"])


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    count = draw(st.integers(0, 5))
    releases = [
        release(
            number,
            draw(VERSION),
            draw(st.none() | VERSION),
            tuple(draw(st.lists(VERSION, max_size=2, unique=True))),
        )
        for number in range(count, 0, -1)
    ]
    ids = draw(st.lists(IDS.filter(bool), unique=True))
    return Inventory(
        releases=tuple(releases),
        versions={version: found(draw(IDS), draw(DAYS)) for version in draw(st.sets(VERSION))},
        quarantined={
            f"{version}.failed_x": found(draw(IDS), draw(DAYS)) for version in draw(st.sets(VERSION))
        },
        engines=frozenset(draw(st.sets(VERSION, max_size=2))),
        deployments=tuple(
            replace(
                deployment(name, draw(st.sampled_from(list(State))), draw(DAYS), draw(VERSION)),
                base_version=draw(st.none() | VERSION),
            )
            for name in sorted(ids)
        ),
        holder=draw(IDS),
    )


POLICIES = st.builds(
    Policy, releases=st.integers(0, 4), quarantined=st.integers(0, 3), days=st.sampled_from([0.0, 1.0, 7.0])
)


def after(inventory: Inventory, policy: Policy) -> Inventory:
    """What is there when everything went that goes."""
    goes = {(verdict.kind, verdict.name) for verdict in judge(inventory, policy, NOW) if verdict.goes}
    return replace(
        inventory,
        versions={v: it for v, it in inventory.versions.items() if (Kind.VERSION, str(v)) not in goes},
        quarantined={
            name: it for name, it in inventory.quarantined.items() if (Kind.QUARANTINED, name) not in goes
        },
        deployments=tuple(it for it in inventory.deployments if (Kind.DEPLOYMENT, it.deploy_id) not in goes),
    )


@given(inventories(), POLICIES)
def test_everything_is_judged_once(inventory: Inventory, policy: Policy) -> None:
    names = [(verdict.kind, verdict.name) for verdict in judge(inventory, policy, NOW)]
    assert len(names) == len(set(names))
    assert len(names) == len(inventory.versions) + len(inventory.quarantined) + len(inventory.deployments)


@given(inventories(), POLICIES)
def test_what_is_needed_never_goes(inventory: Inventory, policy: Policy) -> None:
    left = after(inventory, policy)
    needed = {release.active_version for release in inventory.releases[: policy.releases]}
    for live in inventory.releases[:1]:
        needed |= {live.active_version, *live.warm_versions, live.previous_version or live.active_version}
    unfinished = [record for record in inventory.deployments if not record.finished]
    needed |= {record.version for record in unfinished}
    needed |= {record.base_version for record in unfinished if record.base_version is not None}
    assert needed & inventory.versions.keys() <= left.versions.keys()
    assert [record for record in left.deployments if not record.finished] == unfinished
    ids = {record.deploy_id for record in unfinished}
    for name, it in inventory.quarantined.items():
        assert name in left.quarantined or (it.deploy_id not in ids and NOW - it.since > GRACE)
    here = {record.deploy_id for record in inventory.deployments}
    for it in [*left.versions.values(), *left.quarantined.values()]:
        if it.deploy_id in here:
            assert it.deploy_id in {record.deploy_id for record in left.deployments}
    if inventory.holder in here:
        assert inventory.holder in {record.deploy_id for record in left.deployments}


@given(inventories(), POLICIES)
def test_what_one_gc_keeps_the_next_one_keeps(inventory: Inventory, policy: Policy) -> None:
    left = after(inventory, policy)
    assert after(left, policy) == left


@given(inventories(), POLICIES, st.integers(0, 3))
def test_a_policy_that_keeps_more_removes_no_other(inventory: Inventory, policy: Policy, more: int) -> None:
    generous = Policy(
        releases=policy.releases + more, quarantined=policy.quarantined + more, days=policy.days + more
    )
    assert gone(inventory, generous) <= gone(inventory, policy)
