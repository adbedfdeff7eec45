"""Writes the parts of the documents that follow from the code, between their markers, and the pictures of the figures: ``make docs``."""

from __future__ import annotations

import ast
import functools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import yaml

from bench import bake_verdicts, deploy_tables
from bench.claims import CLAIMS
from bench.claims import table as claims_table
from bench.deploy_tables import STEPS
from bench.plots import PICTURES
from bench.series import Series, from_json, summaries, table
from ml_code.alias_events.settings import EventSettings
from ml_code.gate.rules import Rules
from ml_code.gate.settings import RetrainSettings
from ml_code.gateway.front.deploy_metrics import FAMILIES
from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy.cli.exit_codes import EXIT_CODES
from ml_code.triton_deploy.rules.deployment import TRANSITIONS
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.settings.environment import FromEnvironment

ROOT = Path(__file__).resolve().parents[1]


def settings_table(settings: type[FromEnvironment] = Settings) -> str:
    """Return every setting with its default, as a Markdown table."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for f in settings.declared():
        default = ",".join(f.default) if isinstance(f.default, tuple) else f.default
        shown = "" if default in (None, "") else f"`{default}`"
        lines.append(f"| `{f.metadata['variable']}` | {shown} | {f.metadata['doc']} |")
    return "\n".join(lines)


def deployer_metrics() -> str:
    """Return every metric of the deployer's records, as a Markdown table."""
    lines = ["| metric | labels | meaning |", "|---|---|---|"]
    for name, (text, labels) in FAMILIES.items():
        lines.append(f"| `triton_deploy_{name}` | {', '.join(['model', *labels])} | {text} |")
    return "\n".join(lines)


def chart_values() -> str:
    """Return every value of the Helm chart that has a comment, as a Markdown table."""
    text = (ROOT / "deploy/helm/model-serving/values.yaml").read_text(encoding="utf-8")
    lines = ["| value | default | meaning |", "|---|---|---|"]
    path: list[str] = []
    for comment, indent, key in re.findall(r"^(?: *# (.+)\n)?( *)(\w+):", text, re.MULTILINE):
        path[len(indent) // 2 :] = [key]
        if comment:
            value = functools.reduce(lambda inner, part: inner[part], path, yaml.safe_load(text))
            shown = "" if value == "" else f"`{value if isinstance(value, str) else json.dumps(value)}`"
            lines.append(f"| `{'.'.join(path)}` | {shown} | {comment} |")
    return "\n".join(lines)


def versions_table() -> str:
    """Return deploy/versions.toml as a Markdown table."""
    matrix = tomllib.loads((ROOT / "deploy/versions.toml").read_text(encoding="utf-8"))
    lines = ["| what | version | why this one |", "|---|---|---|"]
    lines += [
        f"| {name} | `{version}` | What the tests run. |" for name, version in matrix["packages"].items()
    ]
    images = matrix["images"].values()
    lines += [f"| `{entry['image']}` | `{entry['tag']}` | {entry['why']} |" for entry in images]
    return "\n".join(lines)


def exit_codes() -> str:
    """Return the exit codes as a Markdown table."""
    rows = re.findall(r"^  (\d+(?:, \d+)*)  (.+)$", EXIT_CODES, re.MULTILINE)
    return "\n".join(
        ["| code | meaning |", "|---|---|", *(f"| {code} | {meaning} |" for code, meaning in rows)]
    )


def state_drawing() -> str:
    """Return the transition table as a Mermaid drawing."""
    edges = [f"    {before} --> {after}" for before, ends in TRANSITIONS.items() for after in sorted(ends)]
    last = [f"    {state} --> [*]" for state, ends in TRANSITIONS.items() if not ends]
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            "    [*] --> pinned",
            "    [*] --> unchanged",
            "    [*] --> materialized: revert",
            *edges,
            *last,
            "```",
        ]
    )


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
"""What the sweeps break, in the order of the table."""


CANDIDATE_COLUMNS = {
    "two and staging": "two Tritons and staging",
    "two": "two Tritons",
    "one and staging": "one Triton and staging",
    "one": "one Triton alone",
}
"""What serves, by its name in the section ``candidates`` of ``docs/reliability.json``."""


def reliability() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what ``make soak`` wrote."""
    data: dict[str, dict[str, dict[str, Any]]] = json.loads(
        (ROOT / "docs/reliability.json").read_text(encoding="utf-8")
    )
    return data


def moments_table() -> str:
    """Return how long Tritons took that were killed at each moment, as a Markdown table."""
    runs = reliability()["replicas"]
    columns = list(dict.fromkeys(name for run in runs.values() for name in run))
    lines = [f"| | {' | '.join(columns).replace('_', ' ')} |", "|---" * (len(columns) + 1) + "|"]
    rows = (f"| {what} | {' | '.join(str(run[name]) for name in columns)} |" for what, run in runs.items())
    return "\n".join([*lines, *rows])


def runs_table(section: str) -> Callable[[], str]:
    """Return what gives the figures of one section of the soak as a Markdown table, a row a figure."""

    def render() -> str:
        rows = [
            f"| {what} | {name.replace('_', ' ')} | {_shown(value)} |"
            # A section that no complete run has written yet has no rows.
            for what, run in reliability().get(section, {}).items()
            for name, value in run.items()
        ]
        return "\n".join(["| run | figure | value |", "|---|---|---|", *rows])

    return render


def _shown(value: Any) -> str:
    """Write a figure, or several of them by name."""
    return (
        ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)
    )


def sweeps_table() -> str:
    """Return what the sweeps tried, as a Markdown table."""
    figures = reliability()
    sweeps = {what: figures[what] for what in SWEEPS if what in figures}
    known = {name for found in sweeps.values() for name in found}
    operations = sorted(known, key=OPERATIONS.index)
    lines = [
        f"| | {' | '.join(operations)} | left to reconcile | seed |",
        "|---" * (len(operations) + 3) + "|",
    ]
    for what, found in sweeps.items():
        points = [str(found[name]["points"]) if name in found else "-" for name in operations]
        seeds = ", ".join(sorted({str(entry["seed"]) for entry in found.values()}))
        # The others say nothing of that: they reconcile, and then look.
        left = [entry["left_to_reconcile"] for entry in found.values() if "left_to_reconcile" in entry]
        lines.append(f"| {what} | {' | '.join(points)} | {sum(left) if left else ''} | {seeds} |")
    total = sum(entry["points"] for found in sweeps.values() for entry in found.values())
    lines += ["", f"In all {total} points: 0 torn records, 0 lost releases, 0 wrong versions served."]
    return "\n".join(lines)


def candidates_table() -> str:
    """Return what candidates did to the clients of what serves, as a Markdown table: a row a candidate, a column what serves."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for name, cell in reliability().get("candidates", {}).items():
        row, _, column = name.rpartition(": ")
        cells.setdefault(row, {})[column] = cell
    lines = [
        f"| | {' | '.join(CANDIDATE_COLUMNS.values())} | how its deploys ended |",
        "|---" * (len(CANDIDATE_COLUMNS) + 2) + "|",
    ]
    for row, found in sorted(cells.items()):
        shown = (_shown_cell(found[column]) if column in found else "-" for column in CANDIDATE_COLUMNS)
        hows = sorted({how for cell in found.values() for how in cell["deploys"].split(", ")})
        lines.append(f"| {row} | {' | '.join(shown)} | {', '.join(hows)} |")
    return "\n".join(lines)


def _shown_cell(cell: dict[str, Any]) -> str:
    """Write the requests that failed, and the Tritons that were started again."""
    staging = f", staging {cell['starts_of_staging']}" if cell["starts_of_staging"] else ""
    return f"{cell['failed']} of {cell['requests']}; {cell['starts']}{staging}"


LIBRARY = "ml_code.triton_deploy"


def _layers() -> dict[str, list[list[str]]]:
    """Return the rooms of each package that has some, by layer, the highest first: as the linter is told them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    return {
        contract["containers"][0]: [layer.split(" | ") for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers"
    }


def _sentence(module: str) -> str:
    """Return the first line of a module's docstring."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[0]


def rooms_table(package: str) -> Callable[[], str]:
    """Return what gives the rooms of a package, the highest layer first, as a Markdown table."""

    def made() -> str:
        layers = _layers()[package]
        lines = ["| room | what is in it | may import |", "|---|---|---|"]
        for number, layer in enumerate(layers):
            below = [f"`{room}`" for lower in layers[number + 1 :] for room in lower]
            lines += [
                f"| `{room}` | {_sentence(f'{package}.{room}')} | {', '.join(below) or 'none of the others'} |"
                for room in layer
            ]
        return "\n".join(lines)

    return made


def neighbours_table() -> str:
    """Return the packages beside the library, as a Markdown table."""
    lines = ["| package | what is in it |", "|---|---|"]
    for folder in sorted((ROOT / "ml_code").iterdir()):
        module = f"ml_code.{folder.name}"
        if (folder / "__init__.py").exists() and module != LIBRARY:
            lines.append(f"| `{folder.name}` | {_sentence(module)} |")
    return "\n".join(lines)


def rooms_drawing() -> str:
    """Return which room of the library imports which, as a drawing: an arrow that follows from others is left out."""
    graph = grimp.build_graph("ml_code", exclude_type_checking_imports=True)
    rooms = [room for layer in _layers()[LIBRARY] for room in layer]
    owner = {
        module: room
        for room in rooms
        for module in {f"{LIBRARY}.{room}", *graph.find_descendants(f"{LIBRARY}.{room}")}
    }
    arrows: dict[str, set[str]] = {room: set() for room in rooms}
    for module, room in owner.items():
        arrows[room] |= {
            owner[one] for one in graph.find_modules_directly_imported_by(module) if one in owner
        }
    reached: dict[str, set[str]] = {}
    for room in reversed(rooms):
        arrows[room].discard(room)
        reached[room] = arrows[room].union(*(reached[lower] for lower in arrows[room]))
    lines = ["```mermaid", "flowchart TD"]
    for room in rooms:
        near = arrows[room] - set().union(*(reached[lower] for lower in arrows[room]))
        lines += [f"    {room} --> {lower}" for lower in rooms if lower in near]
    return "\n".join([*lines, "```"])


def measured() -> dict[str, Any]:
    """Return what ``make bench`` wrote."""
    data: dict[str, Any] = json.loads((ROOT / "docs/performance.json").read_text(encoding="utf-8"))
    return data


def benches() -> dict[str, list[Series]]:
    """Return the series of each benchmark."""
    return {name: from_json(series) for name, series in measured()["benches"].items()}


def machine() -> str:
    """Return the facts of the machine that the figures are from, as a Markdown table."""
    facts = {"date": measured()["at_utc"], **measured()["machine"]}
    return "\n".join(
        ["| fact | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
    )


TABLES = ("transfer", "swaps", "memory", "gateway", "local", "airflow", "scale", "replicas")
"""Benchmarks of which every series is a row."""


def figures(bench: str) -> Callable[[], str]:
    """Return what gives the table of one benchmark."""
    return lambda: table(summaries(benches()[bench]))


def headlines() -> str:
    """Return the claims that the README shows, as a Markdown table."""
    return claims_table([claim for claim in CLAIMS if claim.headline], benches())


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "CONTRIBUTING.md": {
        "rooms": rooms_table(LIBRARY),
        "rooms of the gateway": rooms_table("ml_code.gateway"),
        "packages": neighbours_table,
    },
    "docs/architecture.md": {"rooms": rooms_drawing},
    "docs/performance.md": {
        "machine": machine,
        "claims": lambda: claims_table(CLAIMS, benches()),
        "deploy": lambda: deploy_tables.costs(benches()["deploy"]),
        "deploy steps": lambda: deploy_tables.steps(benches()["deploy"], (*STEPS, "end")),
        **{name: figures(name) for name in TABLES},
    },
    "README.md": {"settings": settings_table, "exit codes": exit_codes, "figures": headlines},
    "docs/reliability.md": {
        "sweeps": sweeps_table,
        "candidates": candidates_table,
        "replicas": moments_table,
        "traffic": runs_table("traffic"),
        "concurrency": runs_table("concurrency"),
        "damages": runs_table("damages"),
        "hostile servers": runs_table("hostile servers"),
    },
    "docs/bake.md": {
        "verdicts": lambda: bake_verdicts.table(ROOT / "docs/bake.json"),
        "deployer metrics": deployer_metrics,
    },
    "docs/events.md": {"settings": lambda: settings_table(EventSettings)},
    "docs/gateway.md": {"settings": lambda: settings_table(GatewaySettings)},
    "docs/kubernetes.md": {"values": chart_values},
    "docs/operations.md": {"versions": versions_table},
    "docs/repository.md": {"states": state_drawing},
    "docs/retrain.md": {
        "rules": lambda: settings_table(Rules),
        "settings": lambda: settings_table(RetrainSettings),
    },
}


def rendered(name: str) -> str:
    """Return a document with its generated parts up to date."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for part, make in PARTS[name].items():
        begin, end = f"<!-- {part}: make docs -->\n", f"<!-- end of {part} -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for name in PARTS:
        (ROOT / name).write_text(rendered(name), encoding="utf-8")
    for picture in PICTURES:
        (ROOT / picture.path).write_text(picture.drawn(benches()), encoding="utf-8")
