"""An MLflow and an S3 that are slow, endless, lying or in the way: a deploy ends in time, in little memory, with an error that says something, and
without a trace of what is secret; what served before serves on. Of ten cases one is healthy and one is well again soon: these deploy.

What is done to the answers is in hostility.py, what has to be true in hostile_cases.py.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace

import pytest

from tests.support.faults import figures
from tests.support.faults.hostile_cases import Players, Seen, numbered, report
from tests.support.faults.hostility import ALL, GROUPS, SITES, TOLD, USUAL, Hostility, Twist
from tests.support.faults.sweep_samples import EXTENT

CASES, SAMPLE = 2_000, 40
"""Cases in ``make soak`` and in ``make test``."""
SEED = int(os.environ.get("FAULTS_SEED") or time.time())
"""Another one each time, in ``make test`` as well: what was asked of servers in a year is more than a sample."""


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Players]:
    with Players(tmp_path_factory.mktemp("hostile")) as players:
        yield players


def well(players: Players, cases: list[Hostility], seed: int) -> list[Seen]:
    """Play cases; if some are red, fail with all of them."""
    seen = list(players.play_all(cases))
    red = [one for one in seen if one.red]
    if red:
        pytest.fail(report(red, len(cases), seed), pytrace=False)
    return seen


@EXTENT
@pytest.mark.timeout(3600)
def test_a_hostile_server_costs_a_deploy_and_nothing_else(complete: bool, players: Players) -> None:
    print(f"seed {SEED}")
    seen = well(players, numbered(SEED, range(CASES if complete else SAMPLE)), SEED)
    keep = figures.record if complete else figures.say
    keep(
        "hostile servers",
        "MLflow and S3",
        {
            "cases": len(seen),
            "healthy": sum(not one.case.twists for one in seen),
            "well again soon, and deployed": sum(
                one.case.must_deploy and bool(one.case.twists) for one in seen
            ),
            "others that deployed": sum(not one.case.must_deploy and one.deployed for one in seen),
            "exit codes": {
                str(code): count for code, count in sorted(Counter(one.ran.code for one in seen).items())
            },
            "longest_s": round(max(one.ran.took_s for one in seen), 1),
            "median_s": round(statistics.median(one.ran.took_s for one in seen), 2),
            "most_mib": round(max(one.ran.grew_mib for one in seen)),
            "played again because late": players.repeated,
            "tracebacks": 0,
            "secrets told": 0,
            "seed": SEED,
        },
    )


def at(where: str, kind: str, site: str = "presigned", **others: object) -> Hostility:
    twist = Twist(where=where, kind=kind, **others)  # type: ignore[arg-type]
    return Hostility(number=1, site=site, twists=(twist,), digest=False)


ONCE = {
    "an hour's pause": at("alias", "busy for an hour"),
    "an hour's pause for a range": at("object", "busy for an hour", first=2),
    "drop by drop": at("alias", "dripping body"),
    "a listing drop by drop": at("listing", "dripping body"),
    "an artifact drop by drop": at("object", "dripping body", first=2),
    "a bomb": at("alias", "bomb", seed=9),
    "a bomb of many parts": at("listing", "bomb", seed=0),
    "a bomb of the other kind": at("s3-listing", "bomb", "direct", seed=7),
    "a folder in each folder": at("listing", "a folder in each folder"),
    "ten folders in each folder": at("listing", "ten folders in each folder"),
    "a token on each page": at("s3-listing", "endless pages", "direct"),
    "a login page": at("place", "login page"),
    "another object in mid-transfer": at("object", "replaced", first=4, times=2, seed=0),
    "every second range of another": at("object", "replaced", every=2, seed=4),
    "go on, go on": at("run", "go on, go on"),
    "it says what it was asked": at("alias", "echo", seed=1),
    "S3 says what it was asked": at("object", "echo", "direct", seed=4),
}
"""What once ended in silence, in gigabytes, in a traceback, or in a mixture."""


@pytest.fixture(scope="module")
def begun(players: Players, request: pytest.FixtureRequest) -> Mapping[str, Future[Seen]]:
    """Every named case that is asked for, begun at once: most of each is waiting."""
    asked = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    names = [str(spec.params["what"]) for spec in asked if spec is not None and "what" in spec.params]
    return {name: players.begin({**ONCE, **GOES_ON}[name]) for name in names}


def ended(what: str, begun: Mapping[str, Future[Seen]], players: Players) -> Seen:
    seen = players.judged(begun[what].result())
    if seen.red:
        pytest.fail(str(seen), pytrace=False)
    return seen


@pytest.mark.parametrize("what", ONCE)
def test_what_once_went_wrong(what: str, begun: Mapping[str, Future[Seen]], players: Players) -> None:
    assert not ended(what, begun, players).deployed


GOES_ON = {
    what: replace(case, must_deploy=True)
    for what, case in {
        "a connection that breaks again and again": at("object", "a quarter at a time", first=2),
        "too many requests for a while": at("object", "too many requests", first=2, times=3),
        "a URL that expired": at("object", "expired once", first=3, times=1),
        "no answer to what is told": at("tag", "silence"),
    }.items()
}
"""What once ended a deploy, and need not."""


@pytest.mark.parametrize("what", GOES_ON)
def test_what_goes_on(what: str, begun: Mapping[str, Future[Seen]], players: Players) -> None:
    assert ended(what, begun, players).deployed


# The generator


def test_a_tenth_is_healthy_and_a_tenth_is_well_again_soon() -> None:
    cases = [Hostility.of(number, 7) for number in range(CASES)]
    assert sum(not case.twists for case in cases) == CASES // 10
    assert sum(case.must_deploy and bool(case.twists) for case in cases) == CASES // 10
    assert {case.site for case in cases} == set(SITES)


def test_every_twist_is_drawn_at_every_endpoint_that_can_have_it() -> None:
    cases = [Hostility.of(number, seed) for seed in range(10) for number in range(CASES)]
    drawn = {(twist.where, twist.kind) for case in cases for twist in case.twists}
    for where in {where for site in SITES.values() for where in site} | {*TOLD}:
        for group in GROUPS.get(where, USUAL):
            assert {(where, kind) for kind in group} <= drawn
    assert {kind for _, kind in drawn} == set(ALL)


def test_a_case_is_the_same_again() -> None:
    assert Hostility.of(17, 4) == Hostility.of(17, 4) != Hostility.of(17, 5)
