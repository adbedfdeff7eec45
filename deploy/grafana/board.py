"""A dashboard as data, and as the JSON text that Grafana is provisioned with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, DashboardCursorSync, VariableRefresh

from deploy.grafana.panels import PROMETHEUS, Panel

_OF_ONE_MODEL = '{model="$model"}'


@dataclass(frozen=True)
class Row:
    """A heading: the panels after it start a new line.

    Attributes:
        title: the heading.
    """

    title: str


@dataclass(frozen=True)
class Board:
    """A dashboard.

    Attributes:
        uid: identity in Grafana.
        title: title.
        text: description for the reader.
        of_one_model: the reader chooses a model, and the release marks are of that model alone.
        parts: panels and headings, from left to right and from top to bottom.
    """

    uid: str
    title: str
    text: str
    of_one_model: bool
    parts: Sequence[Panel | Row]


def to_json(board: Board) -> str:
    """Return the text of the dashboard's file."""
    content: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(_built(board)))
    # Grafana's types know only a part of the annotations that its Prometheus source has.
    content["annotations"] = {"list": [_release_marks(board)]}
    # Raises if Grafana's types can't read the result.
    Dashboard.from_json(content)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _built(board: Board) -> Dashboard:
    built = (
        grafana.Dashboard(board.title)
        .uid(board.uid)
        .description(board.text)
        .tags(["models"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(grafana.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if board.of_one_model:
        built = built.with_variable(
            grafana.QueryVariable("model")
            .label("Model")
            .datasource(PROMETHEUS)
            .query("label_values(triton_deploy_generation, model)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    for part in board.parts:
        if isinstance(part, Row):
            built = built.with_row(grafana.Row(part.title))
        else:
            built = built.with_panel(part.panel())
    return built.build()


def _release_marks(board: Board) -> dict[str, Any]:
    """Return the annotation that draws a line at the time of each release."""
    chosen = _OF_ONE_MODEL if board.of_one_model else ""
    return {
        "name": "Releases",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "iconColor": "blue",
        "expr": f"max by (model) (triton_deploy_release_timestamp_seconds{chosen}) * 1000",
        "step": "60s",
        "titleFormat": "Release",
        "textFormat": "{{model}}",
        "useValueForTime": True,
    }
