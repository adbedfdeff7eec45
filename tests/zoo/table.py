"""``docs/zoo.json`` as the tables of docs/models.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tests.zoo import GROUPS
from tests.zoo.verdicts import FILE, NOT_CARRIED, Outcome

Entries = Mapping[str, Mapping[str, Any]]

TITLES = {
    "sklearn_estimators": "scikit-learn, every estimator that skl2onnx converts",
    "sklearn_pipelines": "scikit-learn, pipelines",
    "boosters": "XGBoost, LightGBM, CatBoost",
    "pytorch": "PyTorch, both exporters",
    "made": "made by hand: names, opsets, types, shapes, subgraphs, external data",
    "packages": "files of packages on PyPI",
}
COLUMNS = {
    Outcome.SERVED: "served",
    Outcome.REFUSED: "refused",
    Outcome.WRONG: "wrong",
    Outcome.LOCAL_FAILS: "fail in ONNX Runtime itself",
    Outcome.NOT_EXPORTED: "not exported",
}
LONGEST = 240


def groups_table() -> str:
    """Return how many models of each group were served, as a Markdown table."""
    lines = [f"| models | cases | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for group, entries in _groups():
        seen = Counter(entry["outcome"] for entry in entries.values())
        shown = " | ".join(str(seen[outcome]) for outcome in COLUMNS)
        lines.append(f"| {TITLES[group]} | {len(entries)} | {shown} |")
    return "\n".join(lines)


def others_table() -> str:
    """Return every model that is not served, with its cause, as a Markdown table."""
    lines = ["| model | | cause |", "|---|---|---|"]
    for group, entries in _groups():
        lines += [
            f"| `{group}/{name}` | {entry['outcome']} | {_cell(entry['cause'])} |"
            for name, entry in entries.items()
            if entry["outcome"] != Outcome.SERVED
        ]
    return "\n".join(lines)


def ways_table() -> str:
    """Return which way can't carry which model's values, as a Markdown table."""
    notes: dict[tuple[str, str], list[str]] = {}
    for _, entries in _groups():
        for name, entry in entries.items():
            for way, said in entry.get("ways", {}).items():
                if said.startswith(NOT_CARRIED):
                    notes.setdefault((way, said.removeprefix(NOT_CARRIED)), []).append(f"`{name}`")
    lines = ["| way | what it does not carry | models |", "|---|---|---|"]
    for (way, said), names in sorted(notes.items()):
        lines.append(f"| {way} | {_cell(said)} | {', '.join(names)} |")
    return "\n".join(lines)


def _groups() -> Iterator[tuple[str, Entries]]:
    known: dict[str, Entries] = json.loads(FILE.read_text(encoding="utf-8"))
    return ((group, known[group]) for group in GROUPS if group in known)


def _cell(text: str) -> str:
    """Return a text that breaks no table; tags and stars would be markup."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST].rsplit(' ', 1)[0]} ..."
    for mark in "\\`*_<>|[]":
        short = short.replace(mark, f"\\{mark}")
    return short
