"""One contract for every board of model versions, and what MLflow shows after real deploys."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ml_code.triton_deploy.cli import main
from ml_code.triton_deploy.deployer import Deployer, DeployRequest
from ml_code.triton_deploy.errors import NotFound, VerificationFailed
from ml_code.triton_deploy.feedback import Board, MlflowBoard
from ml_code.triton_deploy.reconcile import Reconciler
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import FakeBoard
from tests.support.models import files, golden, times
from tests.support.servers.publishing import Publisher

pytestmark = pytest.mark.integration


@dataclass
class Shelf:
    """A board, and ways to put versions on it."""

    board: Board
    publish: Callable[[str], int]
    set_alias: Callable[[str, str, int], None]


@pytest.fixture(params=["mlflow", "fake"])
def shelf(request: pytest.FixtureRequest) -> Shelf:
    if request.param == "fake":
        return on_the_fake()
    stack: Stack = request.getfixturevalue("mlflow_stack")
    publisher = Publisher(stack.environment)
    board = MlflowBoard(Settings(mlflow_tracking_uri=stack.environment["MLFLOW_TRACKING_URI"]))
    return Shelf(board, lambda model: publisher.publish(model, {"f": b"1"}, alias=None), publisher.set_alias)


def on_the_fake() -> Shelf:
    board = FakeBoard()

    def publish(model: str) -> int:
        versions = board.versions.setdefault(model, {})
        versions[len(versions) + 1] = {}
        return len(versions)

    def set_alias(model: str, alias: str, version: int) -> None:
        board.pointing.setdefault(model, {})[alias] = version

    return Shelf(board, publish, set_alias)


@pytest.fixture
def model() -> str:
    return f"m-{uuid.uuid4().hex[:12]}"


def test_tags_are_set_replaced_and_deleted(shelf: Shelf, model: str) -> None:
    first, second = shelf.publish(model), shelf.publish(model)
    shelf.board.set_tag(model, first, "triton.status", "live")
    shelf.board.set_tag(model, first, "triton.status", "retired")
    shelf.board.set_tag(model, first, "triton.reason", "a 'quoted'\nreason; é")
    shelf.board.set_tag(model, second, "triton.status", "live")
    assert shelf.board.tags(model) == {
        first: {"triton.status": "retired", "triton.reason": "a 'quoted'\nreason; é"},
        second: {"triton.status": "live"},
    }
    shelf.board.delete_tag(model, first, "triton.reason")
    shelf.board.delete_tag(model, first, "triton.never-set")
    assert shelf.board.tags(model)[first] == {"triton.status": "retired"}


def test_aliases_are_those_that_are_set_now(shelf: Shelf, model: str) -> None:
    first, second = shelf.publish(model), shelf.publish(model)
    assert shelf.board.aliases(model) == {}
    shelf.set_alias(model, "A", first)
    shelf.set_alias(model, "B", first)
    shelf.set_alias(model, "A", second)
    assert shelf.board.aliases(model) == {"A": second, "B": first}


def test_what_is_not_there_is_empty_or_named(shelf: Shelf, model: str) -> None:
    assert shelf.board.tags(model) == {}
    with pytest.raises(NotFound, match=model):
        shelf.board.aliases(model)
    shelf.publish(model)
    with pytest.raises(NotFound, match="99"):
        shelf.board.set_tag(model, 99, "triton.status", "live")


def test_mlflow_shows_what_serves_what_failed_and_that_the_alias_moved(
    stack: Stack, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env({**stack.environment, "TRITON_DEPLOY_FEEDBACK_TIMEOUT_S": "30"})
    publisher, board = Publisher(stack.environment), MlflowBoard(settings)

    def publish(factor: float, expected: float) -> int:
        return publisher.publish(model, files(times(factor), triton__golden_json=golden(expected)))

    def deploy(deploy_id: str) -> None:
        Deployer(settings).deploy(DeployRequest(model=model, alias="A", deploy_id=deploy_id))

    first = publish(1.0, 1.0)
    deploy("first")
    bad = publish(2.0, 9.0)
    with pytest.raises(VerificationFailed):
        deploy("bad")
    tags = board.tags(model)
    assert (tags[first]["triton.status"], tags[first]["triton.generation"]) == ("live", "1")
    assert tags[bad]["triton.status"] == "failed"
    assert tags[bad]["triton.reason"].startswith("smoke: The candidate answers wrongly: output y is off")

    found = Reconciler(settings).run(model)
    assert (found.done, found.problems) == ((), ()), "all of it was told"
    assert [notice.kind for notice in found.notices] == ["alias_drift"]
    assert f"names version {bad}" in found.notices[0].text
    monkeypatch.setenv("TRITON_DEPLOY_FEEDBACK_TIMEOUT_S", "30")
    assert main(["status", model, "--json", "--quiet"]) == 0, "drift alone is no disagreement"
    (status,) = json.loads(capsys.readouterr().out)
    assert [notice["kind"] for notice in status["notices"]] == ["alias_drift"]

    board.set_tag(model, first, "triton.status", "retired")
    assert Reconciler(settings).run(model).done == (f"tell MLflow that version {first} is live",)
    assert board.tags(model)[first]["triton.status"] == "live"
