"""The tables of ``docs/reliability.md``, from ``docs/reliability.json``, which ``make soak`` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import markdown

FIGURES = Path(__file__).with_name("reliability.json")

SWEEPS = (
    "SIGKILL before a call",
    "SIGKILL after a call",
    "ENOSPC, once",
    "ENOSPC, until the operation ended",
    "EIO, once",
    "EIO, until the operation ended",
    "fsync fails, once",
    "fsync fails, until the operation ended",
    "short write, once",
    "short write, until the operation ended",
    "power cut",
    "kill, reconcile, power cut",
    "kill, the same again, power cut",
    "sleep before a call, another commits",
    "sleep before a call, two others commit",
    "sleep after a call, another commits",
    "sleep after a call, two others commit",
    "sleep before a call, two others commit, real Triton",
    "sleep after a call, two others commit, real Triton",
    "sleep before a call, another commits, killed after it",
    "kill, reconcile, shapes of Triton",
    "kill, the same again, shapes of Triton",
    "sleep before a call, another commits, shapes of Triton",
)
"""Sections of ``docs/reliability.json`` that are sweeps."""
OPERATIONS = (
    "deploy",
    "first deploy",
    "deploy of a broken version",
    "revert",
    "rollback",
    "reconcile",
    "gc",
    "canary",
)
"""The operations that the sweeps break, in the order of the table."""
CANDIDATE_COLUMNS = {
    "two and staging": "two Tritons and staging",
    "two": "two Tritons",
    "one and staging": "one Triton and staging",
    "one": "one Triton alone",
}
"""Titles of the sets of servers, by their name in the section ``candidates`` of ``docs/reliability.json``."""


def reliability() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures that ``make soak`` wrote."""
    data: dict[str, dict[str, dict[str, Any]]] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return data


def moments_table() -> str:
    """Return the recovery times of Tritons that were killed at each moment, as a Markdown table."""
    runs = reliability()["replicas"]
    columns = list(dict.fromkeys(name for run in runs.values() for name in run))
    rows = ([what, *(run[name] for name in columns)] for what, run in runs.items())
    return markdown.table(["", *(name.replace("_", " ") for name in columns)], rows)


def runs_table(section: str) -> Callable[[], str]:
    """Return a function that returns one section of the soak as a Markdown table, a row for each figure."""

    def render() -> str:
        rows = [
            (what, name.replace("_", " "), _shown(value))
            # A section that no complete run has written yet has no rows.
            for what, run in reliability().get(section, {}).items()
            for name, value in run.items()
        ]
        return markdown.table(("run", "figure", "value"), rows)

    return render


def _shown(value: Any) -> str:
    """Return a figure as text; a figure may be several by name."""
    return (
        ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)
    )


def sweeps_table() -> str:
    """Return the points that the sweeps tried, as a Markdown table."""
    figures = reliability()
    sweeps = {what: figures[what] for what in SWEEPS if what in figures}
    known = {name for found in sweeps.values() for name in found}
    operations = sorted(known, key=OPERATIONS.index)
    rows = []
    for what, found in sweeps.items():
        points = [str(found[name]["points"]) if name in found else "-" for name in operations]
        seeds = ", ".join(sorted({str(entry["seed"]) for entry in found.values()}))
        # The other sweeps have no such figure: they reconcile first, and check then.
        left = [entry["left_to_reconcile"] for entry in found.values() if "left_to_reconcile" in entry]
        rows.append([what, *points, sum(left) if left else "", seeds])
    return (
        markdown.table(["", *operations, "left to reconcile", "seed"], rows)
        + f"\n\nIn all {total_points()} points: 0 torn records, 0 lost releases, 0 wrong versions served."
    )


def total_points() -> int:
    """Return the number of points at which the sweeps broke an operation."""
    figures = reliability()
    return sum(entry["points"] for what in SWEEPS for entry in figures.get(what, {}).values())


def candidates_table() -> str:
    """Return the effect of candidates on clients as a Markdown table: candidates by sets of servers."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for name, cell in reliability().get("candidates", {}).items():
        row, _, column = name.rpartition(": ")
        cells.setdefault(row, {})[column] = cell
    rows = []
    for row, found in sorted(cells.items()):
        shown = (_shown_cell(found[column]) if column in found else "-" for column in CANDIDATE_COLUMNS)
        hows = sorted({how for cell in found.values() for how in cell["deploys"].split(", ")})
        rows.append([row, *shown, ", ".join(hows)])
    return markdown.table(["", *CANDIDATE_COLUMNS.values(), "how its deploys ended"], rows)


def _shown_cell(cell: dict[str, Any]) -> str:
    """Return the number of failed requests and of restarts of Tritons, as text."""
    staging = f", staging {cell['starts_of_staging']}" if cell["starts_of_staging"] else ""
    return f"{cell['failed']} of {cell['requests']}; {cell['starts']}{staging}"
