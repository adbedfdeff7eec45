"""The dashboards that Grafana is provisioned with: what is written is what the code builds, and what Grafana's types read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.board import to_json
from deploy.grafana.dashboards import BOARDS
from deploy.grafana.panels import Chart, Number, Panel, Table

GRAFANA = Path(__file__).parents[2] / "deploy/grafana"
FILES = sorted(GRAFANA.glob("dashboards/*.json"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_files_are_what_the_code_builds() -> None:
    built = {name: to_json(board) for name, board in BOARDS.items()}
    assert {path.stem: path.read_text() for path in FILES} == built, "run 'make docs'"


@pytest.mark.parametrize("kind", [Table, partial(Chart, unit="none"), partial(Number, unit="none")])
def test_a_panel_keeps_every_query_or_is_refused(kind: Callable[..., Panel]) -> None:
    queries = [(f"expression_{number}", f"name {number}") for number in range(27)]
    built = kind(title="Many", queries=queries[:26]).panel().build()
    assert [(target.expr, target.legend_format) for target in built.targets] == queries[:26]
    assert len({target.ref_id for target in built.targets}) == 26
    with pytest.raises(ValueError, match="zip"):
        kind(title="Too many", queries=queries).panel()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafanas_types_read_all_of_it(path: Path) -> None:
    content = read(path)
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(content)))
    for ours, theirs in zip(content["panels"], again["panels"], strict=True):
        assert ours == theirs
    assert content["templating"] == again["templating"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_overlaps_and_every_panel_asks_the_chosen_source(path: Path) -> None:
    content = read(path)
    taken: set[tuple[int, int]] = set()
    for panel in content["panels"]:
        place = panel["gridPos"]
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not squares & taken, panel["title"]
        taken |= squares
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert next(variable["name"] for variable in content["templating"]["list"]) == "datasource"


def test_titles_and_identities_are_their_own() -> None:
    boards = [read(path) for path in FILES]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 3


def test_the_provisioning_names_where_the_dashboards_are_mounted() -> None:
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/models.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
