"""Tables of the reference pages, taken from the code: commands, DAGs, metrics, HTTP paths and Python."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import docstring_parser
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from bench import markdown
from ml_code.gateway.backend import Backend
from ml_code.gateway.front.deploy_metrics import FAMILIES
from ml_code.gateway.front.last_minutes import LastMinutes
from ml_code.gateway.front.openapi import ERRORS
from ml_code.gateway.front.pages import Pages, pages_application
from ml_code.gateway.http.metrics import Metrics
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton.backend import TritonMetrics
from ml_code.service import http_protocol
from ml_code.triton_deploy.cli import build_parser
from tests.support.dags import library_environment

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "ml_code.triton_deploy"


# Commands


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser by their names."""
    [action] = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(action.choices)


SHARED = ("json", "quiet", "verbose", "repository", "tracking_uri", "triton")
"""Options of every command, which a table of their own has."""


def commands() -> str:
    """Return a section for each command of ``triton-deploy``: its purpose, its options and examples."""
    return "\n\n".join(_command(name, parser) for name, parser in subcommands(build_parser()).items())


def shared_options() -> str:
    """Return the options of every command, as a Markdown table."""
    parser = subcommands(build_parser())["doctor"]
    rows = [_row(action, parser) for action in parser._actions if action.dest in SHARED]
    return markdown.table(("option", "meaning"), rows)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings or action.dest in SHARED:
            continue
        rows.append(_row(action, parser))
    examples = "\n".join(line.strip() for line in (parser.epilog or "").splitlines()[1:])
    return "\n\n".join(
        filter(
            None,
            [
                f"## {name}",
                parser.description,
                markdown.table(("argument", "meaning"), rows) if rows else "",
                f"<!-- not run: examples; tests of each command run it -->\n```sh\n{examples}\n```",
            ],
        )
    )


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[str, str]:
    formatter = parser._get_formatter()
    written = action.option_strings or [formatter._format_args(action, action.metavar or action.dest)]
    value = "" if action.nargs == 0 or not action.option_strings else f" {_value(action)}"
    meaning = formatter._expand_help(action) if action.help else ""
    return ", ".join(f"`{one}{value}`" for one in written), meaning


def _value(action: argparse.Action) -> str:
    if action.choices and not action.metavar:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


# DAGs

_READ_DAGS = """
import importlib.util, json, pathlib, sys
from airflow.sdk import DAG
found = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for dag in [each for each in vars(module).values() if isinstance(each, DAG)]:
        params = {name: dag.params.get_param(name) for name in dag.params}
        schedule = dag.schedule.total_seconds() if hasattr(dag.schedule, "total_seconds") else dag.schedule
        found.append({
            "id": dag.dag_id, "description": dag.description, "schedule": schedule,
            "params": {n: {"default": p.value, "schema": p.schema, "text": p.description} for n, p in params.items()},
        })
print(json.dumps(found))
"""


def dags() -> str:
    """Return a section for each DAG of ``dags/``: its purpose, its schedule and its params.

    A process of its own imports them: Airflow reads its environment once, when it is imported.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], **library_environment(Path(home))}
        read = [sys.executable, "-c", _READ_DAGS, str(ROOT / "dags")]
        text = subprocess.run(read, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    return "\n\n".join(_dag(dag) for dag in json.loads(text.stdout.splitlines()[-1]))


def _dag(dag: dict[str, Any]) -> str:
    when = _when(dag["schedule"])
    rows = [
        (f"`{name}`", _shown(param["default"]), _type(param["schema"]), param["text"] or "")
        for name, param in dag["params"].items()
    ]
    lines = [f"## {dag['id']}", dag["description"], f"It runs {when}."]
    if rows:
        lines.append(markdown.table(("param", "default", "type", "meaning"), rows))
    return "\n\n".join(lines)


def _when(schedule: float | str | None) -> str:
    if isinstance(schedule, float):
        minutes = schedule / 60
        return f"every {minutes / 60:g} hours" if minutes >= 60 else f"every {minutes:g} minutes"
    return f"`{schedule}`" if schedule else "when it is triggered"


def _shown(value: object) -> str:
    return "" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    text = " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in schema:
        text += ": " + ", ".join(f"`{value}`" for value in schema["enum"])
    limits = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if key in schema]
    text += f", {', '.join(limits)}" if limits else ""
    return text + (", or empty" if "null" in kinds else "")


_LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}


# Metrics


def gateway_metrics() -> str:
    """Return every metric of ``/metrics`` of the gateway with Triton behind it, as a Markdown table."""
    metrics = Metrics(lambda: (), lambda: 0, lambda: 0, (*TritonMetrics().all, *http_protocol.METRICS))
    rows = [
        (f"`{family.name}{'_total' if family.type == 'counter' else ''}`", family.type, family.documentation)
        for family in text_string_to_metric_families(metrics.text().decode())
        # The time at which a counter began: the client library adds it to every counter.
        if not family.name.endswith("_created")
    ]
    return markdown.table(("metric", "type", "meaning"), sorted(rows))


def deployer_metrics() -> str:
    """Return every metric of the deployer's records, as a Markdown table."""
    return markdown.table(
        ("metric", "labels", "meaning"),
        (
            (f"`triton_deploy_{name}`", ", ".join(["model", *labels]), text)
            for name, (text, labels) in FAMILIES.items()
        ),
    )


# HTTP


def http_paths() -> str:
    """Return every path of the gateway, as a Markdown table."""
    rows = [
        (f"`{method.upper()} {path}`", operation.get("description") or operation["summary"])
        for path, operations in gateway_document()["paths"].items()
        for method, operation in operations.items()
    ]
    return markdown.table(("request", "answer"), rows)


def refusals() -> str:
    """Return the status codes of refusals, as a Markdown table."""
    return markdown.table(
        ("status", "meaning"), ((code, about["description"]) for code, about in ERRORS.items())
    )


def gateway_document() -> dict[str, Any]:
    """Return the OpenAPI document of a gateway on a model repository."""
    missing: Any = None
    backend: Backend = missing
    metrics: Metrics = missing
    minutes: LastMinutes = missing
    lifespan: Any = missing
    pages = Pages(GatewaySettings(), backend, metrics, minutes)
    app: FastAPI = pages_application(pages, ROOT, lifespan)
    document: dict[str, Any] = app.openapi()
    return document


# Python

PUBLIC: dict[str, tuple[str, ...]] = {
    "ml_code.triton_deploy.settings": ("Settings.from_env",),
    "ml_code.triton_deploy.deploy.request": ("DeployRequest", "RevertRequest"),
    "ml_code.triton_deploy.deploy.deployer": (
        "Deployer",
        "Deployer.deploy",
        "Deployer.revert",
        "Deployer.rollback",
        "Deployer.plan_deploy",
        "Deployer.plan_revert",
        "Deployer.what_serves",
    ),
    "ml_code.triton_deploy.upkeep.status": ("model_status",),
    "ml_code.triton_deploy.errors": ("DeployError",),
}
"""What is called from outside, by its module."""


def python() -> str:
    """Return a section for each public class and function, from its signature and its docstring."""
    return "\n\n".join(_documented(module, name) for module, names in PUBLIC.items() for name in names)


def errors() -> str:
    """Return every error that the library raises on purpose, with the exit code, as a Markdown table."""
    base = importlib.import_module(f"{LIBRARY}.errors").DeployError
    rows = [
        (f"`{error.__name__}`", error.exit_code, (inspect.getdoc(error) or "").splitlines()[0])
        for error in _descendants(base)
        if error.__module__.startswith(f"{LIBRARY}.errors")
    ]
    return markdown.table(
        ("error", "exit code", "meaning"), sorted(set(rows), key=lambda row: (row[1], row[0]))
    )


def _descendants(base: Any) -> Iterator[Any]:
    for error in base.__subclasses__():
        yield error
        yield from _descendants(error)


def _documented(module: str, name: str) -> str:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    parsed = docstring_parser.parse(inspect.getdoc(found) or "", style=docstring_parser.DocstringStyle.GOOGLE)
    signature = _signature(found)
    about = " ".join(filter(None, [parsed.short_description, parsed.long_description]))
    lines = [
        f"### {name}",
        f"```python\nfrom {module} import {name.split('.', maxsplit=1)[0]}\n\n{name}{signature}\n```",
        _line(about),
    ]
    lines += _listed(f"`{each.arg_name}`: {_line(each.description)}" for each in parsed.params)
    if parsed.returns and parsed.returns.description:
        lines.append(f"Returns: {_line(parsed.returns.description)}")
    lines += _listed(f"raises `{each.type_name}`: {_line(each.description)}" for each in parsed.raises)
    return "\n\n".join(lines)


def _signature(found: Any) -> str:
    """Return a signature as a reader writes it: without ``self``, and with "…" for a default that is code."""
    signature = inspect.signature(found)
    shown = [
        each.replace(default=_Code()) if callable(each.default) and each.default is not each.empty else each
        for name, each in signature.parameters.items()
        if name != "self"
    ]
    # Annotations are strings, and shown in quotes: the code has `from __future__ import annotations`.
    text = str(signature.replace(parameters=shown))
    for annotation in [each.annotation for each in shown] + [signature.return_annotation]:
        text = text.replace(repr(annotation), str(annotation))
    return text


class _Code:
    """A default that is code."""

    def __repr__(self) -> str:
        return "…"


def _listed(lines: Iterable[str]) -> list[str]:
    text = "\n".join(f"- {line}" for line in lines)
    return [text] if text else []


def _line(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("``", "`")).strip()


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/reference/cli.md": {"shared options": shared_options, "commands": commands},
    "docs/reference/dags.md": {"dags": dags},
    "docs/reference/metrics.md": {"gateway metrics": gateway_metrics, "deployer metrics": deployer_metrics},
    "docs/reference/http.md": {"paths": http_paths, "refusals": refusals},
    "docs/reference/python.md": {"python": python, "errors": errors},
}
"""The generated parts of the reference pages that nothing else has."""
