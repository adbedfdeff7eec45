"""Writes the generated parts of the documents, between their markers, and the pictures: ``make docs``."""

from __future__ import annotations

import ast
import functools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grimp
import yaml

from bench import bake_verdicts, deploy_tables, markdown
from bench.claims import CLAIMS
from bench.claims import table as claims_table
from bench.deploy_tables import STEPS
from bench.plots import PICTURES
from bench.series import Series, from_json, summaries, table
from docs import reference_tables
from docs.reliability_tables import candidates_table, moments_table, runs_table, sweeps_table, total_points
from ml_code.alias_events.settings import EventSettings
from ml_code.gate.rules import Rules
from ml_code.gate.settings import RetrainSettings
from ml_code.gateway.settings import GatewaySettings
from ml_code.triton_deploy.cli.exit_codes import EXIT_CODES
from ml_code.triton_deploy.rules.deployment import TRANSITIONS
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.settings.environment import FromEnvironment
from tests.zoo import table as zoo_table

ROOT = Path(__file__).resolve().parents[1]


def settings_table(settings: type[FromEnvironment] = Settings) -> str:
    """Return every setting with its default, as a Markdown table."""
    rows = []
    for f in settings.declared():
        default = ",".join(f.default) if isinstance(f.default, tuple) else f.default
        shown = "" if default in (None, "") else f"`{default}`"
        rows.append((f"`{f.metadata['variable']}`", shown, f.metadata["doc"]))
    return markdown.table(("variable", "default", "meaning"), rows)


def chart_values() -> str:
    """Return every value of the Helm chart that has a comment, as a Markdown table."""
    text = (ROOT / "deploy/helm/model-serving/values.yaml").read_text(encoding="utf-8")
    rows = []
    path: list[str] = []
    for comment, indent, key in re.findall(r"^(?: *# (.+)\n)?( *)(\w+):", text, re.MULTILINE):
        path[len(indent) // 2 :] = [key]
        if comment:
            value = functools.reduce(lambda inner, part: inner[part], path, yaml.safe_load(text))
            shown = "" if value == "" else f"`{value if isinstance(value, str) else json.dumps(value)}`"
            rows.append((f"`{'.'.join(path)}`", shown, comment))
    return markdown.table(("value", "default", "meaning"), rows)


def versions_table() -> str:
    """Return deploy/versions.toml as a Markdown table."""
    matrix = tomllib.loads((ROOT / "deploy/versions.toml").read_text(encoding="utf-8"))
    packages = [(name, f"`{version}`", "What the tests run.") for name, version in matrix["packages"].items()]
    images = [
        (f"`{entry['image']}`", f"`{entry['tag']}`", entry["why"]) for entry in matrix["images"].values()
    ]
    return markdown.table(("what", "version", "why this one"), [*packages, *images])


def alerts_table() -> str:
    """Return every alert with its severity and how long its condition has to hold, as a Markdown table."""
    rules = [
        rule
        for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    rows = [
        (
            f"[{rule['alert']}](runbook.md#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            rule.get("for", "at once"),
        )
        for rule in rules
    ]
    return markdown.table(("alert", "severity", "after"), rows)


def exit_codes() -> str:
    """Return the exit codes as a Markdown table."""
    rows = re.findall(r"^  (\d+(?:, \d+)*)  (.+)$", EXIT_CODES, re.MULTILINE)
    return markdown.table(("code", "meaning"), rows)


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


LIBRARY = "ml_code.triton_deploy"


def _layers() -> dict[str, list[list[str]]]:
    """Return the rooms of each package, by layer, the highest first, from the configuration of the linter."""
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
    """Return a function that returns the rooms of a package, the highest layer first, as a Markdown table."""

    def made() -> str:
        layers = _layers()[package]
        rows = []
        for number, layer in enumerate(layers):
            below = [f"`{room}`" for lower in layers[number + 1 :] for room in lower]
            may_import = ", ".join(below) or "none of the others"
            rows += [(f"`{room}`", _sentence(f"{package}.{room}"), may_import) for room in layer]
        return markdown.table(("room", "what is in it", "may import"), rows)

    return made


def neighbours_table() -> str:
    """Return the packages beside the library, as a Markdown table."""
    packages = (path.parent.name for path in sorted((ROOT / "ml_code").glob("*/__init__.py")))
    rows = ((f"`{name}`", _sentence(f"ml_code.{name}")) for name in packages if f"ml_code.{name}" != LIBRARY)
    return markdown.table(("package", "what is in it"), rows)


def rooms_drawing() -> str:
    """Return the imports between the rooms as a drawing, without arrows that follow from others."""
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
    """Return the figures that ``make bench`` wrote."""
    data: dict[str, Any] = json.loads((ROOT / "docs/performance.json").read_text(encoding="utf-8"))
    return data


def benches() -> dict[str, list[Series]]:
    """Return the series of each benchmark."""
    return {name: from_json(series) for name, series in measured()["benches"].items()}


def machine() -> str:
    """Return the facts of the machine that the figures were measured on, as a Markdown table."""
    facts = {"date": measured()["at_utc"], **measured()["machine"]}
    return markdown.table(("fact", "value"), facts.items())


TABLES = ("transfer", "swaps", "memory", "gateway", "local", "airflow", "scale", "replicas")
"""Benchmarks whose table has a row for each series."""


def figures(bench: str) -> Callable[[], str]:
    """Return a function that returns the table of one benchmark."""
    return lambda: table(summaries(benches()[bench]))


class Promises(NamedTuple):
    """The figures of the three reasons in the README.

    Attributes:
        failed: requests that failed while a bad version was deployed and rolled back, of ``asked``.
        naive_failed: the same of the naive way, of ``naive_asked``.
        revert: duration of a revert, with its unit.
        lost: requests that failed while a version was unloaded and another one loaded.
        points: number of points at which an operation was broken.
    """

    failed: str
    asked: str
    naive_failed: str
    naive_asked: str
    revert: str
    lost: str
    points: str


def promises() -> Promises:
    """Return the figures, from the results of ``make bench`` and ``make soak``."""
    counts = {series.name: series.counts or {} for series in benches()["swaps"]}
    ours, naive = counts["deploy of wrong answers, undone"], counts["naive deploy of wrong answers, undone"]
    [revert] = [
        series for series in benches()["swaps"] if series.name.startswith("revert to a warm version, call")
    ]
    lost = counts["naive revert: unload, load"]["failed"]
    return Promises(
        f"{ours['failed']:,.0f}",
        f"{ours['requests']:,.0f}",
        f"{naive['failed']:,.0f}",
        f"{naive['requests']:,.0f}",
        f"{revert.median:.0f} {revert.unit}",
        f"{lost:,.0f}",
        f"{total_points():,}",
    )


def reasons() -> str:
    """Return the three reasons of the README, each with its measured figure."""
    of = promises()
    return "\n".join(
        [
            f"- **A bad model reaches no client.** A version with wrong answers was deployed and rolled back under 300 requests a "
            f"second: {of.failed} of {of.asked} requests failed. Copying the files and loading them failed {of.naive_failed} of "
            f"{of.naive_asked}.",
            f"- **The way back takes {of.revert}.** The version before stays loaded, so a revert only moves a pointer, and no request "
            f"failed. Unloading and loading instead failed {of.lost} requests.",
            f"- **A crash changes nothing.** The deployer was killed, its disk was filled and its power cut at {of.points} points of "
            "its operations: each time the old release or the new one was live, and never a mixture.",
        ]
    )


def korean_reasons() -> str:
    """Return the same figures for the Korean README."""
    of = promises()
    return "\n".join(
        [
            f"- 초당 300건의 요청 중에 잘못된 모델을 배포하고 되돌리는 동안 실패한 요청: {of.asked}건 중 {of.failed}건 (단순 복사 방식: {of.naive_asked}건 중 {of.naive_failed}건).",
            f"- 이전 버전으로 되돌리는 시간: {of.revert}.",
            f"- 강제 종료, 디스크 오류, 정전을 일으킨 지점: {of.points}곳. 매번 이전 버전 또는 새 버전이 그대로 서비스되었습니다.",
        ]
    )


def first_commands() -> str:
    """Return the commands under "Try it" in the README, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^## Try it$.*?(^<!-- not run: .*?^```$)", text, re.DOTALL | re.MULTILINE)
    return re.sub(r" +#.*", "", block)


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
    "README.md": {"reasons": reasons},
    "README.ko.md": {"commands": first_commands, "figures": korean_reasons},
    **reference_tables.PARTS,
    "docs/reference/settings.md": {"settings": settings_table},
    "docs/reference/exit-codes.md": {"exit codes": exit_codes},
    "docs/reliability.md": {
        "sweeps": sweeps_table,
        "candidates": candidates_table,
        "replicas": moments_table,
        "traffic": runs_table("traffic"),
        "concurrency": runs_table("concurrency"),
        "damages": runs_table("damages"),
        "hostile servers": runs_table("hostile servers"),
    },
    "docs/alerting.md": {"alerts": alerts_table},
    "docs/bake.md": {"verdicts": lambda: bake_verdicts.table(ROOT / "docs/bake.json")},
    "docs/events.md": {"settings": lambda: settings_table(EventSettings)},
    "docs/gateway.md": {"settings": lambda: settings_table(GatewaySettings)},
    "docs/kubernetes.md": {"values": chart_values},
    "docs/models.md": {
        "zoo": zoo_table.groups_table,
        "zoo others": zoo_table.others_table,
        "zoo ways": zoo_table.ways_table,
    },
    "docs/operations.md": {"versions": versions_table},
    "docs/repository.md": {"states": state_drawing},
    "docs/retrain.md": {
        "rules": lambda: settings_table(Rules),
        "settings": lambda: settings_table(RetrainSettings),
    },
}


LIGHT = sorted((ROOT / "docs/images").glob("*-light.svg"))
"""The pictures that are drawn by hand."""
DARK_COLOURS = {
    "#f6f8fa": "#161b22",
    "#8c959f": "#6e7681",
    "#ddf4ff": "#0c2d6b",
    "#0969da": "#58a6ff",
    "#dafbe1": "#0f3d1f",
    "#1a7f37": "#3fb950",
    "#ffebe9": "#4a1216",
    "#cf222e": "#f85149",
    "#1f2328": "#e6edf3",
    "#57606a": "#9da7b3",
}
"""Colours of a picture on a light background, and what takes their place on a dark one."""


def dark(light: Path) -> Path:
    """Return the path of the same picture for a dark background."""
    return light.with_name(light.name.replace("-light", "-dark"))


def dark_picture(light: Path) -> str:
    """Return a picture in the colours for a dark background."""
    return re.sub(
        "|".join(DARK_COLOURS), lambda found: DARK_COLOURS[found[0]], light.read_text(encoding="utf-8")
    )


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
    for picture_by_hand in LIGHT:
        dark(picture_by_hand).write_text(dark_picture(picture_by_hand), encoding="utf-8")
    for picture in PICTURES:
        (ROOT / picture.path).write_text(picture.drawn(benches()), encoding="utf-8")
