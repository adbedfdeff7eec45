"""What is said of two runs of the benchmark."""

import json
import math
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.claims import Claim
from bench.compare import Comparison, compare, table
from bench.series import Series, to_json


def bench(**ratios: float) -> dict[str, list[Series]]:
    base = Series(name="base", unit="ms", values=(1.0, 2.0, 9.0))
    others = (
        Series(name=name, unit="ms", values=(2.0 * ratio,), baseline="base") for name, ratio in ratios.items()
    )
    return {"deploy": [base, *others]}


def test_a_ratio_is_of_the_medians_of_a_series_and_its_baseline() -> None:
    [one] = compare(bench(ours=0.5), bench(ours=0.55), [])
    assert (one.bench, one.series, one.claimed) == ("deploy", "ours", False)
    assert (one.old, one.new) == (0.5, pytest.approx(0.55))


def test_what_only_one_run_measured_is_left_out_unless_it_is_claimed() -> None:
    old, new = bench(ours=0.5, gone=1), bench(ours=0.5, added=1)
    assert [one.series for one in compare(old, new, [])] == ["ours"]
    claimed = [("deploy", "added", "base"), ("deploy", "gone", "base"), ("deploy", "never", "base")]
    missing = [one for one in compare(old, new, claimed) if one.claimed]
    assert [(one.series, one.old, one.new) for one in missing] == [
        ("added", None, 1.0),
        ("gone", 1.0, None),
        ("never", None, None),
    ]
    assert not any(one.holds(0.15) for one in missing)


def test_a_claim_may_compare_with_another_series_than_the_baseline() -> None:
    [*_, one] = compare(bench(ours=1, naive=2), bench(ours=1, naive=4), [("deploy", "ours", "naive")])
    assert (one.old, one.new, one.claimed) == (0.5, 0.25, True)


def test_a_whole_bench_may_be_missing() -> None:
    assert compare({}, bench(ours=1), []) == []


@pytest.mark.parametrize(("old", "new"), [(1.0, 1.14), (1.14, 1.0), (0.002, 0.00228)])
def test_a_claim_holds_within_the_tolerance_whichever_run_was_first(old: float, new: float) -> None:
    [one] = compare(bench(ours=old), bench(ours=new), [("deploy", "ours", "base")])
    assert one.difference == pytest.approx(0.14)
    assert one.holds(0.15)
    assert not one.holds(0.13)


def test_what_is_not_claimed_may_differ() -> None:
    [one] = compare(bench(ours=1), bench(ours=7), [])
    assert one.difference == pytest.approx(6)
    assert one.holds(0.15)


def test_a_baseline_of_zero_gives_no_ratio() -> None:
    zero = Series(name="base", unit="B", values=(0.0,))
    ours = Series(name="ours", unit="B", values=(1.0,), baseline="base")
    assert compare({"deploy": [zero, ours]}, {"deploy": [zero, ours]}, []) == []


def test_ratios_of_zero_agree_only_with_each_other() -> None:
    both = Comparison(bench="deploy", series="again", versus="base", old=0.0, new=0.0, claimed=True)
    assert both.holds(0.15)
    one = Comparison(bench="deploy", series="again", versus="base", old=0.0, new=0.1, claimed=True)
    assert one.difference == math.inf
    assert not one.holds(0.15)


def test_the_table_says_which_claims_do_not_hold() -> None:
    compared = compare(
        bench(ours=0.5, other=2, drifted=1),
        bench(ours=0.55, other=3, drifted=2),
        [("deploy", "ours", "base"), ("deploy", "drifted", "base"), ("deploy", "never", "base")],
    )
    assert table(compared, 0.15).splitlines()[2:] == [
        "| deploy | ours | base | 0.50 | 0.55 | 10% | claimed |",
        "| deploy | other | base | 2.00 | 3.00 | 50% |  |",
        "| deploy | drifted | base | 1.00 | 2.00 | 100% | claimed: does not hold |",
        "| deploy | never | base | not measured | not measured |  | claimed: does not hold |",
    ]


@pytest.mark.parametrize(
    ("ratio", "tolerance", "status"), [(0.55, "0.15", 0), (0.6, "0.15", 1), (0.6, "0.25", 0)]
)
def test_the_command_fails_when_a_claimed_ratio_differs_too_much(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    tolerance: str,
    status: int,
) -> None:
    claim = Claim(what="a deploy", bench="deploy", series="ours", versus="base")
    figure = Claim(what="a deploy", bench="deploy", series="ours")
    monkeypatch.setattr("bench.__main__.CLAIMS", (claim, figure))
    for name, benches in (("old", bench(ours=0.5)), ("new", bench(ours=ratio))):
        content = {"benches": {what: to_json(series) for what, series in benches.items()}}
        (tmp_path / name).write_text(json.dumps(content))
    paths = [str(tmp_path / name) for name in ("old", "new")]
    assert main(["--compare", *paths, "--tolerance", tolerance]) == status
    assert f"{status} of 1 claimed ratios differ" in capsys.readouterr().out
