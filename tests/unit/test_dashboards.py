"""The dashboards that Grafana is provisioned with: what is written is what the code builds, and what Grafana's types read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

GRAFANA = Path(__file__).parents[2] / "deploy/grafana"
FILES = sorted(GRAFANA.glob("dashboards/*.json"))


@pytest.fixture(scope="module")
def code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_files_are_what_the_code_builds(code: ModuleType) -> None:
    built = {name: code.to_json(board()) for name, board in code.BOARDS.items()}
    assert {path.stem: path.read_text() for path in FILES} == built, "run 'make docs'"


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
