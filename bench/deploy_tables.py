"""The figures of the deploys, a row a way: many series of one name each would be hard to read. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from bench.series import Series, with_unit

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
    """Return medians of what each way cost, and the ratios to the naive way from the same place, as a Markdown table."""
    lines = [
        f"| deploy | {' | '.join(COSTS)} | whole process to naive | {OWN} to naive |",
        "|---" * (len(COSTS) + 3) + "|",
    ]
    by_name = {one.name: one for one in series}
    for case in _cases(by_name, COSTS[0]):
        found = [by_name[f"{case}, {cost}"] for cost in COSTS]
        shown = [with_unit(statistics.median(one.values), one.unit) for one in found]
        ratios = [_ratio(one, by_name.get(one.baseline)) for one in found[:2]]
        lines.append(f"| {' | '.join([case, *shown, *ratios])} |")
    return "\n".join(lines)


def steps(series: Sequence[Series], names: Sequence[str]) -> str:
    """Return the median seconds of each step of ours as a Markdown table.

    Args:
        series: all of the benchmark.
        names: the steps, in order.
    """
    lines = [f"| seconds of | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    by_name = {one.name: one for one in series}
    for case in _cases(by_name, names[0]):
        medians = (statistics.median(by_name[f"{case}, {name}"].values) for name in names)
        lines.append(f"| {case} | {' | '.join(f'{median:.3f}' for median in medians)} |")
    return "\n".join(lines)


def _cases(names: Iterable[str], quantity: str) -> list[str]:
    return [name.removesuffix(f", {quantity}") for name in names if name.endswith(f", {quantity}")]


def _ratio(one: Series, baseline: Series | None) -> str:
    if baseline is None:
        return ""
    return f"{statistics.median(one.values) / statistics.median(baseline.values):.2f}"
