"""The figures of the deploys: one row for each method, instead of a row for each series. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import markdown
from .series import Series, with_unit

STEPS = {
    "snapshot": "pinned",
    "materialize": "materialized",
    "load": "loaded",
    "ready": "ready",
    "smoke": "verified",
    "commit": "committed",
}
"""The state that each step of a deploy ends with."""
OWN = "without Triton's load"
COSTS = ("whole process", OWN, "peak memory", "written")


def costs(series: Sequence[Series]) -> str:
    """Return the median costs of each method, and the ratios to the naive way, as a Markdown table."""
    by_name = {one.name: one for one in series}
    rows = []
    for case in _cases(by_name, COSTS[0]):
        found = [by_name[f"{case}, {cost}"] for cost in COSTS]
        shown = [with_unit(one.median, one.unit) for one in found]
        ratios = [_ratio(one, by_name.get(one.baseline)) for one in found[:2]]
        rows.append([case, *shown, *ratios])
    return markdown.table(("deploy", *COSTS, "whole process to naive", f"{OWN} to naive"), rows)


def steps(series: Sequence[Series], names: Sequence[str]) -> str:
    """Return the median seconds of each step of our deploys as a Markdown table.

    Args:
        series: all series of the benchmark.
        names: the steps, in order.
    """
    by_name = {one.name: one for one in series}
    rows = (
        [case, *(f"{by_name[f'{case}, {name}'].median:.3f}" for name in names)]
        for case in _cases(by_name, names[0])
    )
    return markdown.table(("seconds of", *names), rows)


def _cases(names: Iterable[str], quantity: str) -> list[str]:
    return [name.removesuffix(f", {quantity}") for name in names if name.endswith(f", {quantity}")]


def _ratio(one: Series, baseline: Series | None) -> str:
    return "" if baseline is None else f"{one.median / baseline.median:.2f}"
