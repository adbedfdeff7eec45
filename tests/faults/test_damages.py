"""A repository is damaged by chance; after ``status``, ``reconcile``, a deploy and a revert clients got the right version throughout, or a problem
names what was damaged, and what belongs to somebody else is as it was (see damages.py and damage_cases.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faults import figures
from tests.support.faults.damage_cases import (
    CONTROLS,
    Case,
    Copies,
    InMemory,
    OnTriton,
    Seen,
    blamed,
    report,
)
from tests.support.faults.damages import DEADLY, KINDS, Damage, each
from tests.support.faults.sweep_samples import EXTENT, SEED
from tests.support.world import MODEL

CASES, SAMPLE = 1_000, 30
"""Cases in ``make soak`` and in ``make test``."""
ON_TRITON = 10
"""Of so many cases one is played on a real Triton as well."""
STEP = 5
"""Of so many ways to damage a class of paths one is tried, unless all are asked for."""


def numbers(complete: bool) -> range:
    return range(1, (CASES if complete else SAMPLE) + 1)


def on_triton(number: int) -> bool:
    """Whether a case is among those of a real Triton: every tenth, and a tenth of these are controls."""
    return number % ON_TRITON == number // ON_TRITON % ON_TRITON


def well(copies: Copies, cases: list[Case]) -> list[Seen]:
    """Play cases; if some are red, fail with all of them, each with the one damage that is enough."""
    seen = [copies.play(case) for case in cases]
    red = [blamed(case, copies.play) for case, found in zip(cases, seen, strict=True) if found.red]
    if red:
        pytest.fail(report([(case, copies.play(case)) for case in red], len(cases), SEED), pytrace=False)
    return seen


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InMemory]:
    with InMemory(tmp_path_factory.mktemp("damages")) as copies:
        yield copies


@EXTENT
@pytest.mark.timeout(1800)
def test_clients_get_the_right_version_or_a_problem_names_what_was_damaged(
    complete: bool, in_memory: InMemory
) -> None:
    cases = [Case.of(number, SEED, in_memory.originals) for number in numbers(complete)]
    told("in memory", complete, cases, well(in_memory, cases))


@pytest.mark.soak
@pytest.mark.integration
@pytest.mark.timeout(3600)
def test_a_real_triton_serves_the_right_version_or_a_problem_names_what_was_damaged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # A path that is short enough for a socket.
    with OnTriton(tmp_path_factory.mktemp("damages")) as copies:
        cases = [
            Case.of(number, SEED, copies.originals) for number in numbers(complete=True) if on_triton(number)
        ]
        told("on a real Triton", True, cases, well(copies, cases))


@EXTENT
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_each_way_of_a_kind_alone(kind: str, complete: bool, in_memory: InMemory) -> None:
    damages: list[Damage] = list(each(in_memory.originals[True], kind))
    first, step = (0, 1) if complete else (SEED % STEP, STEP)
    afters = ("", "reconcile", "deploy")
    cases = [
        Case(number=at, damages=(damage,), restart_after=afters[at % len(afters)], begun=True)
        for at, damage in list(enumerate(damages))[first::step]
    ]
    assert cases
    well(in_memory, cases)


SEEN = {
    "engine of other weights": Damage("link", f"{MODEL}.v3/3", "to another", f"{MODEL}/1"),
    "releases gone": Damage("delete", f"{MODEL}/releases", "gone"),
    "live files gone": Damage("delete", f"{MODEL}/3", "gone"),
    "current.json not UTF-8": Damage("junk", f"{MODEL}/current.json", "not UTF-8"),
    "switch not UTF-8": Damage("junk", f"{MODEL}/config.pbtxt", "not UTF-8"),
    "lease torn": Damage("truncate", f"{MODEL}/leases/000004.json", "to nothing"),
    "lease is a link to nothing": Damage("link", f"{MODEL}/leases/000004.json", "dangling"),
    "release torn": Damage("truncate", f"{MODEL}/releases/000003.json", "somewhere"),
    "manifest of newer code": Damage("newer", f"{MODEL}/3/manifest.json", "unknown fields"),
    "model made by hand": Damage("foreign", f"{MODEL}.v77", "a served model"),
    "link called as an engine": Damage("foreign", f"{MODEL}.v78", "a link"),
    "folder of 21 digits": Damage("foreign", f"{MODEL}/{DEADLY}", "deadly"),
    "next version made by hand": Damage("foreign", f"{MODEL}/4", "in the way"),
}
"""Damages after which clients once got nothing, or the wrong version, or somebody's files were changed, or nothing was said."""


@pytest.mark.parametrize("restart_after", ["reconcile", "deploy"])
@pytest.mark.parametrize("what", SEEN)
def test_a_damage_that_once_went_wrong(what: str, restart_after: str, in_memory: InMemory) -> None:
    well(in_memory, [Case(number=1, damages=(SEEN[what],), restart_after=restart_after)])


def told(where: str, complete: bool, cases: list[Case], seen: list[Seen]) -> None:
    """Say what was done, and keep it if it was all."""
    by_kind = [sum(damage.kind == kind for case in cases for damage in case.damages) for kind in KINDS]
    (figures.record if complete else figures.say)(
        "damages",
        where,
        {
            "cases": len(cases),
            "controls": sum(not case.damages for case in cases),
            "damages": dict(zip(KINDS, by_kind, strict=True)),
            "cases_with_a_problem_named": sum(any(ran.problems for ran in found.ran) for found in seen),
            "restarts_of_triton": sum(found.restarts for found in seen),
            "foreign_things_changed": 0,
            "tracebacks": 0,
            "wrong_answers": 0,
            "seed": SEED,
        },
    )


def test_a_tenth_of_the_cases_are_controls(in_memory: InMemory) -> None:
    cases = [Case.of(number, SEED, in_memory.originals) for number in range(1, 201)]
    assert sum(not case.damages for case in cases) == 200 // CONTROLS
    assert {len(case.damages) for case in cases} == {0, 1, 2, 3}
    real = [case for case in cases if on_triton(case.number)]
    assert len(real) == 200 // ON_TRITON
    assert sum(not case.damages for case in real) == 200 // ON_TRITON // CONTROLS
