"""When a release is bad: the rules of the bake and the canary, on figures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.triton_deploy.bake.rules import (
    Course,
    Figures,
    Limits,
    Look,
    Reading,
    complaints,
    course,
    is_enough,
    lower_bound,
)

LIMITS = Limits()


def figures(requests: float = 1000, failures: float = 0, latency_s: float | None = 0.02) -> Figures:
    return Figures(requests=requests, failures=failures, latency_s=latency_s)


def complaints_of(now: Figures, before: Figures | None = None, limits: Limits = LIMITS) -> list[str]:
    return list(complaints(Reading(source="gateway", now=now, before=before), limits))


def test_a_release_that_is_like_the_one_before_is_good() -> None:
    assert complaints_of(figures(), figures()) == []


def test_five_failures_of_a_hundred_are_too_many() -> None:
    (complaint,) = complaints_of(figures(requests=100, failures=5))
    assert complaint == "gateway: 5.0% of 100 requests failed, the limit is 1.0%"


def test_two_failures_of_a_hundred_may_be_chance_and_twenty_of_a_thousand_are_not() -> None:
    assert complaints_of(figures(requests=100, failures=2)) == []
    assert complaints_of(figures(requests=1000, failures=20)) != []


def test_below_the_limit_the_previous_release_is_the_measure() -> None:
    now = figures(requests=100_000, failures=900)
    assert complaints_of(now) == []
    (complaint,) = complaints_of(now, figures(requests=100_000, failures=10))
    assert (
        complaint == "gateway: 0.9% of 100000 requests failed, 0.0% of the previous release's at the same age"
    )


def test_failures_that_the_previous_release_had_too_are_not_this_ones() -> None:
    lenient = Limits(max_failure_ratio=0.05)
    assert complaints_of(figures(failures=30), figures(failures=30), lenient) == []


def test_ten_times_slower_than_the_previous_release_is_bad() -> None:
    (complaint,) = complaints_of(figures(latency_s=0.2), figures(latency_s=0.02))
    assert (
        complaint == "gateway: answers take 200.0 ms, 20.0 ms those of the previous release at the same age"
    )


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


def test_a_latency_that_is_not_known_is_not_slow() -> None:
    limits = Limits(max_latency_s=0.001)
    assert complaints_of(figures(latency_s=None), figures(), limits) == []


def test_too_few_requests_are_not_enough_and_none_never_are() -> None:
    assert not is_enough(Reading(source="triton", now=figures(requests=99)), LIMITS)
    assert is_enough(Reading(source="triton", now=figures(requests=100)), LIMITS)
    assert not is_enough(Reading(source="triton", now=figures(requests=0)), Limits(min_requests=0))


@given(st.floats(1, 1e9), st.floats(0, 1))
def test_the_lower_bound_is_a_share_and_never_above_what_was_seen(requests: float, share: float) -> None:
    bound = lower_bound(requests * share, requests)
    assert 0 <= bound <= share + 1e-9


@given(st.floats(0.01, 1), st.integers(1, 6))
def test_the_more_is_seen_the_nearer_is_the_lower_bound(share: float, power: int) -> None:
    fewer, more = (lower_bound(share * n, n) for n in (10.0**power, 10.0 ** (power + 1)))
    assert fewer <= more + 1e-12


GOOD, BAD, FEW, AWAY = (
    Look(judged=True),
    Look(judged=True, bad=("slow",)),
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
