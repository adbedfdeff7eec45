"""A number that no version has stops where it comes in, before anything is written."""

from __future__ import annotations

from typing import Any

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.clients.http.answers import JsonAnswer
from ml_code.triton_deploy.clients.mlflow_api import MlflowApi
from ml_code.triton_deploy.clients.registry import MlflowRegistry, RegisteredVersion
from ml_code.triton_deploy.deploy.request import DeployRequest, RevertRequest
from ml_code.triton_deploy.errors import InvalidInput, Misconfigured
from ml_code.triton_deploy.rules.names import MAX_VERSION
from ml_code.triton_deploy.settings import Settings
from tests.support.settings import changed
from tests.support.world import MODEL, World

NONE = [0, -1, MAX_VERSION + 1, 10**30]


@pytest.fixture(params=NONE, ids=str)
def number(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


def test_a_number_that_mlflow_gives_is_refused(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    asked: list[str] = []

    def get(api: MlflowApi, endpoint: str, key: str, **query: Any) -> JsonAnswer:
        asked.append(endpoint)
        answer = {"version": str(number), "run_id": "r", "status": "READY"}
        return JsonAnswer(answer, "MLflow at http://mlflow", endpoint, "{…}")

    monkeypatch.setattr(MlflowApi, "get", get)
    registry = MlflowRegistry(changed(Settings(), mlflow__tracking_uri="http://127.0.0.1:1"))
    with pytest.raises(Misconfigured, match="not a valid model version") as caught:
        registry.resolve("m", "A")
    assert not caught.value.blames_artifact
    assert asked == ["mlflow/registered-models/alias"]


def test_no_registry_can_name_one(number: int) -> None:
    with pytest.raises(InvalidInput, match="not a valid model version"):
        RegisteredVersion(version=number, run_id="r", artifact_uris=(), expected_digest="")


def test_nobody_can_ask_for_one(number: int) -> None:
    with pytest.raises(InvalidInput):
        DeployRequest(model=MODEL, alias="A", deploy_id="d", version=number)
    with pytest.raises(InvalidInput):
        RevertRequest(model=MODEL, deploy_id="r", version=number)


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_a_revert_to_one_changes_nothing(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    also: list[str],
    number: int,
) -> None:
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    before = world.names
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    assert cli.main(["revert", MODEL, f"--to={number}", *also]) == 3
    assert "1 to 2147483647" in capsys.readouterr().err
    assert (world.ask(), world.names) == ((2, 2.0), before)


def test_the_largest_number_is_served(world: World) -> None:
    world.register_times(MAX_VERSION)
    world.deploy()
    assert world.ask()[0] == MAX_VERSION
