"""What counts of failures show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.triton_deploy.rules.failure_evidence import Counts, Evidence, lower_bound, upper_bound


def even(requests: float, failures: float, parts: int) -> Evidence:
    part = Counts(requests=requests / parts, failures=failures / parts)
    return Evidence(Counts(requests=requests, failures=failures), (part,) * parts)


@given(st.floats(1, 1e9), st.floats(0, 1))
def test_the_bounds_are_shares_around_what_was_seen(requests: float, share: float) -> None:
    low, high = (bound(requests * share, requests) for bound in (lower_bound, upper_bound))
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


@given(st.floats(0.01, 1), st.integers(1, 6))
def test_the_more_is_seen_the_nearer_is_the_lower_bound(share: float, power: int) -> None:
    fewer, more = (lower_bound(share * n, n) for n in (10.0**power, 10.0 ** (power + 1)))
    assert fewer <= more + 1e-12


def test_without_requests_everything_is_possible() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0.0, 1.0)


@pytest.mark.parametrize("parts", [1, 2, 5, 15])
def test_failures_that_come_evenly_count_for_more_the_longer_they_come(parts: int) -> None:
    fewer, more = even(1000 * parts, 50 * parts, parts), even(1000 * (parts + 1), 50 * (parts + 1), parts + 1)
    assert more.design_effect < fewer.design_effect


def test_a_burst_counts_for_little_more_than_one_failure() -> None:
    quiet = Counts(requests=300, failures=0)
    burst = Evidence(
        Counts(requests=4500, failures=150), (Counts(requests=300, failures=150), *(quiet,) * 14)
    )
    assert 150 / burst.design_effect < 2
    assert not burst.is_above(0.01)
    assert even(4500, 150, 15).is_above(0.01)


def test_two_neighbours_of_fifteen_do_not_show_more_than_one() -> None:
    quiet, half = Counts(requests=300, failures=0), Counts(requests=300, failures=75)
    assert not Evidence(Counts(requests=4500, failures=150), (half, half, *(quiet,) * 13)).is_above(0.01)


def test_what_fails_always_is_above_any_limit_soon() -> None:
    assert even(100, 100, 1).is_above(0.01)
    assert even(3000, 3000, 1).is_above(0.01)
    assert even(450, 450, 15).is_above(0.5)


def test_a_rise_is_judged_by_what_is_known_of_both() -> None:
    now, rise, limit = even(9000, 180, 15), 0.005, 0.01
    assert now.is_worse(Counts(requests=9000, failures=9), rise, limit)
    assert not now.is_worse(Counts(requests=9000, failures=180), rise, limit)
    assert not now.is_worse(Counts(requests=100, failures=1), rise, limit)
    assert even(9000, 2700, 15).is_worse(Counts(requests=100, failures=1), rise, limit)


@given(st.floats(0, 1), st.floats(100, 1e5), st.integers(1, 15))
def test_no_version_is_worse_than_one_that_fails_as_often(share: float, requests: float, parts: int) -> None:
    now = even(requests, share * requests, parts)
    assert not now.is_worse(now.counts, 0.005, 0.01)
