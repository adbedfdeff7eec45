"""One contract for every board of model versions, and what MLflow shows after real deploys."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import requests

from ml_code.triton_deploy.cli import main
from ml_code.triton_deploy.clients.mlflow_board import Board, MlflowBoard
from ml_code.triton_deploy.deploy.deployer import Deployer, DeployRequest
from ml_code.triton_deploy.errors import NotFound, VerificationFailed
from ml_code.triton_deploy.rules.identity import Origin
from ml_code.triton_deploy.rules.standing import Registered
from ml_code.triton_deploy.rules.version_files import DIGEST_TAG
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from ml_code.triton_deploy.upkeep.renumber import Registrar
from stack import Stack
from tests.support.fakes import FakeBoard
from tests.support.models import files, golden, times
from tests.support.servers.publisher import Publisher
from tests.support.settings import changed

pytestmark = pytest.mark.integration


@dataclass
class Shelf:
    """A board, and ways to put versions on it."""

    board: Registrar
    publish: Callable[[str], int]
    set_alias: Callable[[str, str, int], None]


@pytest.fixture(params=["mlflow", "fake"])
def shelf(request: pytest.FixtureRequest) -> Shelf:
    if request.param == "fake":
        return on_the_fake()
    stack: Stack = request.getfixturevalue("mlflow_stack")
    publisher = Publisher(stack.environment)
    board = MlflowBoard(changed(Settings(), mlflow__tracking_uri=stack.environment["MLFLOW_TRACKING_URI"]))
    return Shelf(board, lambda model: publisher.publish(model, {"f": b"1"}, alias=None), publisher.set_alias)


def on_the_fake() -> Shelf:
    board = FakeBoard()

    def publish(model: str) -> int:
        return board.register(model, Registered(version=0, origin=Origin(run_id=uuid.uuid4().hex)), {})

    def set_alias(model: str, alias: str, version: int) -> None:
        board.pointing.setdefault(model, {})[alias] = version

    return Shelf(board, publish, set_alias)


def tags_of(board: Board, model: str) -> dict[int, dict[str, str]]:
    return {version: dict(registered.tags) for version, registered in board.versions(model).items()}


@pytest.fixture
def model() -> str:
    return f"m-{uuid.uuid4().hex[:12]}"


def test_tags_are_set_replaced_and_deleted(shelf: Shelf, model: str) -> None:
    first, second = shelf.publish(model), shelf.publish(model)
    shelf.board.set_tag(model, first, "triton.status", "live")
    shelf.board.set_tag(model, first, "triton.status", "retired")
    shelf.board.set_tag(model, first, "triton.reason", "a 'quoted'\nreason; é")
    shelf.board.set_tag(model, second, "triton.status", "live")
    assert tags_of(shelf.board, model) == {
        first: {"triton.status": "retired", "triton.reason": "a 'quoted'\nreason; é"},
        second: {"triton.status": "live"},
    }
    shelf.board.delete_tag(model, first, "triton.reason")
    shelf.board.delete_tag(model, first, "triton.never-set")
    assert tags_of(shelf.board, model)[first] == {"triton.status": "retired"}


def test_aliases_are_those_that_are_set_now(shelf: Shelf, model: str) -> None:
    first, second = shelf.publish(model), shelf.publish(model)
    assert shelf.board.aliases(model) == {}
    shelf.set_alias(model, "A", first)
    shelf.set_alias(model, "B", first)
    shelf.set_alias(model, "A", second)
    assert shelf.board.aliases(model) == {"A": second, "B": first}


def test_a_version_is_shown_with_its_run_and_source(shelf: Shelf, model: str) -> None:
    first, second = shelf.publish(model), shelf.publish(model)
    shelf.set_alias(model, "A", second)
    shown = shelf.board.versions(model)
    assert sorted(shown) == [first, second]
    assert shown[first].origin.run_id != shown[second].origin.run_id
    assert shelf.board.named(model, "A") == shown[second]
    assert shelf.board.named(model, "B") is None


def test_a_version_is_registered_again_under_the_next_number(shelf: Shelf, model: str) -> None:
    shelf.publish(model)
    first = shelf.board.versions(model)[1]
    assert shelf.board.register(model, first, {"a": "b"}) == 2
    assert shelf.board.register(model, first, {DIGEST_TAG: "d"}) == 3
    shelf.board.set_alias(model, "A", 3)
    shelf.board.delete_version(model, 2)
    shelf.board.delete_version(model, 3)
    assert shelf.board.named(model, "A") is None
    assert shelf.board.register(model, first, {}) == 4, "no number is given twice"
    again = shelf.board.versions(model)
    assert sorted(again) == [1, 4]
    assert again[4].origin == first.origin
    with pytest.raises(NotFound, match="99"):
        shelf.board.delete_version(model, 99)


def test_what_is_not_there_is_empty_or_named(shelf: Shelf, model: str) -> None:
    assert tags_of(shelf.board, model) == {}
    with pytest.raises(NotFound, match=model):
        shelf.board.aliases(model)
    with pytest.raises(NotFound, match=model):
        shelf.board.named(model, "A")
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
    tags = tags_of(board, model)
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
    assert tags_of(board, model)[first]["triton.status"] == "live"


def test_a_model_that_is_made_anew_is_told_apart_and_renumbered(
    stack: Stack, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRITON_DEPLOY_FEEDBACK_TIMEOUT_S", "30")
    settings = Settings.from_env()
    publisher, board = Publisher(stack.environment), MlflowBoard(settings)

    def publish(factor: float) -> str:
        publisher.publish(
            model, files(times(factor), triton__golden_json=golden(factor)), tags={"mine": "kept"}
        )
        named = board.named(model, "A")
        assert named is not None
        return named.origin.run_id

    def command(*argv: str) -> tuple[int, str]:
        code = main([*argv, "--quiet"])
        said = capsys.readouterr()
        return code, said.out + said.err

    former = publish(2.0)
    publish(3.0)
    assert command("deploy", model)[0] == 0
    requests.delete(
        f"{settings.mlflow.tracking_url}/api/2.0/mlflow/registered-models/delete",
        json={"name": model},
        timeout=30,
    ).raise_for_status()
    again = publish(4.0)
    assert command("deploy", model)[0] == 0, "version 1 of the former model was never here"
    publisher.publish(model, files(times(5.0), triton__golden_json=golden(5.0)))
    anew = board.versions(model)[2].origin.run_id
    assert len({former, again, anew}) == 3
    # Version 2 of the former model was live, and is warm.
    code, said = command("deploy", model)
    assert code == 3
    assert f"Version 2 of {model} in MLflow (run {anew}, " in said
    assert "version 1 of" in said.partition("Still true:")[2]
    assert command("reconcile", model)[0] == 0
    assert tags_of(board, model)[2] == {}
    assert f"triton-deploy renumber {model} --alias A" in command("status", model)[1]
    code, said = command("renumber", model)
    assert (code, "registered again as version 3" in said) == (0, True)
    assert command("deploy", model)[0] == 0
    assert tags_of(board, model)[3]["triton.status"] == "live"
    assert sorted(board.versions(model)) == [1, 2, 3]
    assert "notice" not in command("status", model)[1]
