"""When a release is bad: the rules of the bake and the canary, on figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ml_code.triton_deploy.rules.bake_rules import (
    Course,
    Figures,
    Limits,
    Look,
    Reading,
    course,
    failing,
    is_enough,
    is_fresh,
    is_still_slow,
    remarks,
    slow,
    uncompared,
)
from ml_code.triton_deploy.rules.failure_evidence import Counts

LIMITS = Limits()


def figures(
    requests: float = 1000, failures: float = 0, latency_s: float | None = 0.02, **more: float
) -> Figures:
    return Figures(requests=requests, failures=failures, latency_s=latency_s, **more)


def reading(now: Figures, before: Figures | None = None, parts: int = 15, **more: Any) -> Reading:
    """A reading whose failures came evenly."""
    even = tuple(Counts(requests=now.requests / parts, failures=now.failures / parts) for _ in range(parts))
    return Reading(source="gateway", now=now, before=before, parts=even, **more)


def complaints_of(
    now: Figures, before: Figures | None = None, limits: Limits = LIMITS, **more: Any
) -> list[str]:
    return complaints(reading(now, before, **more), limits)


def complaints(of: Reading, limits: Limits = LIMITS) -> list[str]:
    return [*failing(of, limits), *slow(of, limits)]


def test_a_release_that_is_like_the_one_before_is_good() -> None:
    assert complaints_of(figures(), figures()) == []


# Failures


def test_ten_failures_of_a_hundred_are_too_many() -> None:
    (complaint,) = complaints_of(figures(requests=100, failures=10))
    assert complaint == "gateway: 10.0% of 100 requests failed, the limit is 1.0%"


def test_two_failures_of_a_hundred_may_be_chance_and_thirty_of_a_thousand_are_not() -> None:
    assert complaints_of(figures(requests=100, failures=2)) == []
    assert complaints_of(figures(requests=1000, failures=30)) != []


@pytest.mark.parametrize("requests", [100, 121, 151, 1000])
def test_one_failure_never_makes_a_release_bad(requests: float) -> None:
    assert complaints_of(figures(requests=requests, failures=1)) == []


def test_a_release_that_fails_everything_is_bad_at_the_first_look() -> None:
    assert complaints_of(figures(requests=100, failures=100), parts=1) != []
    assert complaints_of(figures(requests=100, failures=100), figures(requests=100), parts=1) != []


def test_failures_of_one_moment_show_less_than_failures_that_go_on() -> None:
    now = figures(requests=3000, failures=150)
    burst = (Counts(requests=200, failures=150), *(Counts(requests=200, failures=0) for _ in range(14)))
    assert complaints_of(now) != []
    assert complaints(replace(reading(now), parts=burst)) == []


def test_with_a_previous_release_the_rise_is_the_measure() -> None:
    now = figures(requests=100_000, failures=900)
    assert complaints_of(now) == []
    (complaint,) = complaints_of(now, figures(requests=100_000, failures=10), beside="the previous release")
    assert complaint == "gateway: 0.9% of 100000 requests failed, 0.0% of those of the previous release"


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_failures_that_the_other_version_has_too_are_not_this_ones(share: float) -> None:
    now = figures(requests=9000, failures=9000 * share)
    assert complaints_of(now) != []
    assert complaints_of(now, figures(requests=9000, failures=9000 * share)) == []
    assert complaints_of(now, figures(requests=900, failures=900 * share)) == []


def test_a_previous_release_that_hardly_anybody_asked_does_not_hide_a_bad_one() -> None:
    assert complaints_of(figures(failures=100), figures(requests=100, failures=0)) != []
    assert complaints_of(figures(failures=100), figures(requests=99, failures=99)) != []


def test_failures_of_one_or_two_clients_are_theirs_unless_there_are_no_others() -> None:
    bad = {"requests": 1000, "failures": 100}
    assert complaints_of(figures(**bad, clients=50, clients_failed=2)) == []
    assert complaints_of(figures(**bad, clients=50, clients_failed=3)) != []
    assert complaints_of(figures(**bad, clients=2, clients_failed=1)) == []
    assert complaints_of(figures(**bad, clients=2, clients_failed=2)) != []
    assert complaints_of(figures(**bad, clients=1, clients_failed=1)) != []
    assert complaints_of(figures(**bad, clients=50, clients_failed=4), limits=Limits(min_clients=5)) == []


def test_where_nobody_counts_clients_failures_count() -> None:
    assert complaints_of(figures(failures=100, clients=50, clients_failed=0)) != []
    assert complaints_of(figures(failures=100)) != []


def test_what_both_versions_fail_on_is_not_the_releases_fault() -> None:
    assert complaints_of(figures(failures=100, both=30, alone=0)) == []
    assert complaints_of(figures(failures=100, both=30, alone=0), figures(failures=0)) == []
    (complaint,) = complaints_of(figures(requests=9000, failures=900, both=30, alone=30))
    assert complaint == "gateway: 5.0% of 9000 requests failed on this version alone, the limit is 1.0%"


def test_a_release_that_fails_more_than_what_both_fail_on_is_bad_beside_one_that_failed_as_often() -> None:
    steady = figures(requests=9000, failures=270)
    assert complaints_of(figures(requests=9000, failures=270, both=260, alone=1), steady) == []
    assert complaints_of(figures(requests=9000, failures=630, both=270, alone=360), steady) != []


def test_what_is_no_complaint_is_told_all_the_same() -> None:
    def told(now: Figures, before: Figures | None = None) -> list[str]:
        return list(remarks(reading(now, before, beside="the other"), LIMITS))

    now = figures(requests=9000, failures=270)
    assert told(figures()) == []
    assert told(now, figures(requests=9000, failures=270)) == [
        "gateway: 3.0% of the requests failed, 3.0% of those of the other"
    ]
    assert told(replace(now, both=20, alone=0)) == [
        "gateway: 3.0% of the requests failed, 0.0% on this version alone"
    ]
    assert told(replace(now, clients=9, clients_failed=2)) == [
        "gateway: 3.0% of the requests failed, those of 2 clients"
    ]


def test_a_source_that_sees_more_than_another_is_judged_by_the_rest() -> None:
    seen = Counts(requests=900, failures=0)
    assert not is_enough(reading(figures(requests=950), elsewhere=seen), LIMITS)
    assert is_enough(reading(figures(requests=1100), elsewhere=seen), LIMITS)
    assert not is_enough(
        reading(figures(requests=10_500), elsewhere=Counts(requests=10_000, failures=0)), LIMITS
    )
    around = Reading(source="triton", now=figures(requests=1100, failures=40), elsewhere=seen)
    assert around.counts == Counts(requests=200, failures=40)


def test_failures_that_the_look_before_saw_are_nothing_new() -> None:
    now = reading(figures(failures=100))
    assert is_fresh(now, LIMITS)
    assert is_fresh(replace(now, fresh=Counts(requests=100, failures=2)), LIMITS)
    assert not is_fresh(replace(now, fresh=Counts(requests=100, failures=0)), LIMITS)
    assert not is_fresh(replace(now, fresh=Counts(requests=300, failures=2)), LIMITS)


# Latency


def test_ten_times_slower_than_the_previous_release_is_bad() -> None:
    (complaint,) = complaints_of(figures(latency_s=0.2), figures(latency_s=0.02), beside="the other")
    assert complaint == "gateway: answers take 200.0 ms, 20.0 ms those of the other"


def test_three_times_of_almost_nothing_is_not_slower() -> None:
    assert complaints_of(figures(latency_s=0.009), figures(latency_s=0.003)) == []


def test_without_a_previous_release_only_the_absolute_limit_tells_slow() -> None:
    assert complaints_of(figures(latency_s=3.0)) == []
    (complaint,) = complaints_of(figures(latency_s=3.0), limits=Limits(max_latency_s=1.0))
    assert complaint == "gateway: answers take 3000.0 ms, the limit is 1000.0 ms"


def test_a_previous_release_that_hardly_anybody_asked_is_no_measure() -> None:
    assert complaints_of(figures(latency_s=0.5), figures(requests=99, latency_s=0.02)) == []
    assert complaints_of(figures(latency_s=0.5), figures(requests=100, latency_s=0.02)) != []


def test_a_comparison_can_be_switched_off() -> None:
    limits = Limits(max_latency_ratio=0)
    assert complaints_of(figures(latency_s=5.0), figures(latency_s=0.02), limits) == []
    assert uncompared(reading(figures()), limits) == ""


def test_a_latency_that_is_not_known_is_not_slow() -> None:
    limits = Limits(max_latency_s=0.001)
    assert complaints_of(figures(latency_s=None), figures(), limits) == []


SLOWER = (figures(latency_s=0.2), figures(latency_s=0.02))


def test_more_load_than_before_makes_any_version_slower_unless_the_other_has_it_too() -> None:
    assert complaints_of(*SLOWER, load=1.9) != []
    assert complaints_of(*SLOWER, load=2.1) == []
    assert complaints_of(*SLOWER, load=2.1, meanwhile=True) != []
    assert uncompared(reading(*SLOWER, load=2.1, beside="the other"), LIMITS) == (
        "there is 2.1 times the load that the other had"
    )
    assert uncompared(reading(figures(), figures(), load=9.0), LIMITS) == "", "it is not slower"


def test_requests_of_as_many_rows_are_compared() -> None:
    fast, slow = figures(requests=500, latency_s=0.02), figures(requests=500, latency_s=0.2)
    none = figures(requests=0, latency_s=None)
    assert complaints_of(*SLOWER, by_rows={"1": (slow, fast), "10": (slow, fast)}) != []
    assert complaints_of(*SLOWER, by_rows={"1": (fast, fast), "1000": (slow, none)}) == []
    other_sizes = reading(*SLOWER, by_rows={"1": (none, fast), "1000": (slow, none)}, beside="the other")
    assert complaints(other_sizes) == []
    assert (
        uncompared(other_sizes, LIMITS) == "its requests have other numbers of rows than those of the other"
    )


def test_a_release_that_is_as_cold_as_the_one_before_was_is_not_slow() -> None:
    assert complaints_of(*SLOWER, aged=figures(latency_s=0.15)) == []
    assert complaints_of(*SLOWER, aged=figures(latency_s=0.03)) != []
    assert complaints_of(*SLOWER, aged=figures(requests=5, latency_s=0.15)) != []


def test_a_latency_that_nothing_is_compared_with_is_told() -> None:
    assert uncompared(reading(figures(), figures()), LIMITS) == ""
    for before in (None, figures(requests=99), figures(latency_s=None)):
        assert uncompared(reading(figures(), before), LIMITS) == "nothing is known of another version's"
    assert uncompared(reading(figures(latency_s=None), figures()), LIMITS) == "nothing is known of its own"


def test_slowness_that_the_look_before_saw_is_nothing_new() -> None:
    now = reading(*SLOWER)
    assert is_still_slow(now, LIMITS)
    assert is_still_slow(replace(now, fresh_latency_s=0.2), LIMITS)
    assert not is_still_slow(replace(now, fresh_latency_s=0.02), LIMITS)
    assert is_still_slow(replace(now, fresh_latency_s=0.02), Limits(max_latency_s=0.01))


def test_too_few_requests_are_not_enough_and_none_never_are() -> None:
    assert not is_enough(Reading(source="triton", now=figures(requests=99)), LIMITS)
    assert is_enough(Reading(source="triton", now=figures(requests=100)), LIMITS)
    assert not is_enough(Reading(source="triton", now=figures(requests=0)), Limits(min_requests=0))


# The course


GOOD, BAD, STALE, FEW, AWAY = (
    Look(judged=True),
    Look(judged=True, bad=("slow",)),
    Look(judged=True, bad=("slow",), stale=True),
    Look(),
    Look(unknown="Prometheus can't be reached."),
)


@pytest.mark.parametrize(
    ("looks", "over", "expected"),
    [
        ([GOOD], False, Course.GOES_ON),
        ([BAD], False, Course.GOES_ON),
        ([BAD, BAD], False, Course.FAILED),
        ([BAD, GOOD, BAD], False, Course.GOES_ON),
        ([BAD, AWAY, BAD], False, Course.GOES_ON),
        ([GOOD, BAD, BAD], False, Course.FAILED),
        ([BAD, STALE], False, Course.GOES_ON),
        ([BAD, STALE, STALE, BAD], False, Course.FAILED),
        ([BAD, STALE, GOOD, BAD], False, Course.GOES_ON),
        ([GOOD, GOOD], True, Course.PASSED),
        ([GOOD, BAD], True, Course.FAILED),
        ([FEW, FEW], True, Course.NO_DATA),
        ([GOOD, FEW], True, Course.NO_DATA),
        ([FEW, GOOD], True, Course.PASSED),
        ([GOOD, AWAY], True, Course.GOES_ON),
        ([GOOD, AWAY, AWAY], True, Course.GOES_ON),
        ([GOOD, AWAY, AWAY, AWAY], True, Course.NO_DATA),
        ([AWAY, AWAY], True, Course.NO_DATA),
        ([AWAY, AWAY, AWAY, GOOD], True, Course.PASSED),
    ],
)
def test_where_a_bake_stands(looks: Sequence[Look], over: bool, expected: Course) -> None:
    assert course(looks, bad_looks=2, over=over, patience=3) is expected


def test_one_bad_look_is_enough_when_that_is_the_policy() -> None:
    assert course([BAD], bad_looks=1, over=False, patience=3) is Course.FAILED
