"""What the tables of the figures say of the values."""

import pytest

from bench.series import Series, from_json, quantile, summaries, table, to_json

OURS = Series(name="ours", unit="ms", values=(1.0, 3.0, 2.0, 2.0, 1.0, 3.0, 2.0, 2.0), counts={"failed": 0})
NAIVE = Series(
    name="naive",
    unit="ms",
    values=(8.0, 8.0, 4.0, 4.0, 6.0, 6.0, 10.0, 10.0),
    baseline="ours",
    counts={"failed": 7},
)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.99, 4.0), (0.25, 1.0), (0.26, 2.0), (1.0, 4.0)])
def test_a_quantile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value


def test_a_ratio_is_of_medians_and_its_spread_of_the_quarters() -> None:
    ours, naive = summaries([OURS, NAIVE])
    assert (ours.ratio, ours.median, ours.p99, ours.n) == (None, 2.0, 3.0, 8)
    assert naive.ratio == 3.5
    assert (naive.ratio_low, naive.ratio_high) == (2.0, 5.0)


def test_few_values_have_a_ratio_as_well() -> None:
    short = Series(name="short", unit="ms", values=(6.0,), baseline="ours")
    assert summaries([OURS, short])[1].ratio == 3.0


def test_the_table_has_a_row_for_each() -> None:
    lines = table(summaries([OURS, NAIVE])).splitlines()
    assert lines[2] == "| ours | 8 | 1 ms | 2 ms | 3 ms |  | 0 failed |"
    assert lines[3] == "| naive | 8 | 4 ms | 7 ms | 10 ms | 3.50 (2.00 to 5.00) | 7 failed |"


def test_what_was_measured_is_read_back_whole() -> None:
    assert from_json(to_json([OURS, NAIVE])) == [OURS, NAIVE]
