"""The rules of a step: no evidence is no commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_code.triton_deploy.rules.canary_course import (
    BAD,
    PATIENCE,
    CanaryVerdict,
    Course,
    Policy,
    Seen,
    stand,
)

HOLD_S = 600.0
POLICIES = {name: Policy(no_data=name, bad_looks=2, hold_s=HOLD_S) for name in ("hold", "pass", "roll_back")}
SEEN = Seen(verdict=CanaryVerdict.PASS, why="the figures")
UNMEASURED = replace(SEEN, verdict=CanaryVerdict.UNMEASURED, unmeasured_looks=PATIENCE)


def course(seen: Seen, no_data: str = "hold") -> Course:
    return stand(seen, POLICIES[no_data]).course


@pytest.mark.parametrize("no_data", POLICIES)
def test_a_good_step_ends_with_its_time(no_data: str) -> None:
    assert course(SEEN, no_data) is Course.GOES_ON
    assert course(replace(SEEN, over=True), no_data) is Course.ENDS_WELL


@pytest.mark.parametrize("no_data", POLICIES)
@pytest.mark.parametrize("verdict", sorted(BAD))
def test_a_bad_one_ends_the_deploy_whatever_is_set_or_said(no_data: str, verdict: CanaryVerdict) -> None:
    once = replace(SEEN, verdict=verdict, bad_looks=1)
    assert course(once, no_data) is Course.GOES_ON
    for more in (
        replace(once, bad_looks=2),
        replace(once, over=True),
        replace(once, promoted_by="me"),
        replace(once, bad_looks=2, paused_by="me"),
        replace(once, over=True, waits=True),
    ):
        assert course(more, no_data) is Course.BAD


@pytest.mark.parametrize(
    ("no_data", "in_the_end"),
    [("hold", Course.UNDECIDED), ("roll_back", Course.UNDECIDED), ("pass", Course.ENDS_UNJUDGED)],
)
def test_too_few_requests_take_longer_up_to_a_limit(no_data: str, in_the_end: Course) -> None:
    few = replace(SEEN, verdict=CanaryVerdict.NO_DATA)
    assert course(few, no_data) is Course.GOES_ON
    held = stand(replace(few, over=True, held_s=HOLD_S - 1), POLICIES[no_data])
    assert (held.course, held.why, held.withdrawn) == (Course.HELD, "too few requests: the figures", False)
    assert course(replace(few, over=True, held_s=HOLD_S), no_data) is in_the_end


@pytest.mark.parametrize("over", [False, True])
def test_a_look_without_a_measurement_says_nothing_yet(*, over: bool) -> None:
    for no_data in POLICIES:
        assert (
            course(replace(UNMEASURED, unmeasured_looks=PATIENCE - 1, over=over), no_data) is Course.GOES_ON
        )


def test_what_nothing_measures_has_no_share_and_waits_for_a_person() -> None:
    held = stand(UNMEASURED, POLICIES["hold"])
    assert (held.course, held.withdrawn) == (Course.HELD, True)
    assert course(replace(UNMEASURED, held_s=HOLD_S)) is Course.UNDECIDED
    assert course(UNMEASURED, "roll_back") is Course.UNDECIDED
    assert course(UNMEASURED, "pass") is Course.GOES_ON
    assert course(replace(UNMEASURED, waits=True), "pass") is Course.GOES_ON
    waits = stand(replace(UNMEASURED, over=True, waits=True), POLICIES["pass"])
    assert (waits.course, waits.withdrawn) == (Course.HELD, False)
    ended = stand(replace(UNMEASURED, over=True), POLICIES["pass"])
    assert ended.course is Course.ENDS_UNJUDGED
    assert ended.why == "TRITON_DEPLOY_CANARY_NO_DATA is pass: nothing measures: the figures"


@pytest.mark.parametrize("no_data", POLICIES)
def test_a_person_is_waited_for_and_not_for_ever(no_data: str) -> None:
    for seen in (
        replace(SEEN, over=True, waits=True),
        replace(SEEN, paused_by="me"),
        replace(SEEN, over=True, paused_by="me"),
    ):
        assert course(seen, no_data) is Course.HELD
        assert course(replace(seen, held_s=HOLD_S), no_data) is Course.UNDECIDED
        assert (
            course(replace(seen, held_s=HOLD_S, promoted_by="you", paused_by=""), no_data) is Course.ENDS_WELL
        )


@pytest.mark.parametrize("verdict", [CanaryVerdict.NO_DATA, CanaryVerdict.UNMEASURED])
def test_a_person_may_promote_what_nobody_could_judge_and_that_is_said(verdict: CanaryVerdict) -> None:
    seen = replace(UNMEASURED, verdict=verdict, promoted_by="me (it is late)")
    ended = stand(seen, POLICIES["hold"])
    assert (ended.course, ended.why) == (Course.ENDS_UNJUDGED, "me (it is late) promoted it: the figures")


def test_testers_alone_need_no_figures() -> None:
    testers = replace(SEEN, verdict=CanaryVerdict.NO_DATA, over=True, testers_alone=True)
    assert course(replace(testers, waits=True)) is Course.HELD
    assert course(replace(testers, waits=True, promoted_by="me")) is Course.ENDS_WELL
