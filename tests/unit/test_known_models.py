"""A model that was never deployed is a wrong name: exit code 3, with what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_code.triton_deploy import cli
from ml_code.triton_deploy.errors import NotFound
from ml_code.triton_deploy.report import known_models
from ml_code.triton_deploy.settings import Settings
from tests.support.settings import changed
from tests.support.world import World


@pytest.fixture
def deployed(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    world.register_times(1)
    world.deploy()
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    monkeypatch.setenv("TRITON_DEPLOY_GRPC_URLS", "127.0.0.1:1")
    return world.root


@pytest.mark.parametrize(
    "argv", [["status"], ["history"], ["reconcile"], ["gc"], ["gc", "--dry-run"]], ids=" ".join
)
@pytest.mark.parametrize(
    ("name", "meant"), [("bestmodel", "best_model"), ("Best_Model", "best_model"), ("nope", "")]
)
def test_an_unknown_model_is_a_wrong_name_and_leaves_nothing_behind(
    deployed: Path, capsys: pytest.CaptureFixture[str], argv: list[str], name: str, meant: str
) -> None:
    command, *options = argv
    before = sorted(deployed.rglob("*"))
    assert cli.main([command, name, *options, "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["error"] == "not_found"
    assert f"by the name {name!r}" in said["message"]
    assert ("Did you mean best_model?" in said["hint"]) is bool(meant)
    assert "best_model" in said["hint"]
    assert sorted(deployed.rglob("*")) == before


@pytest.mark.usefixtures("deployed")
def test_the_text_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history", "bestmodel"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "Did you mean best_model?" in said.err
    assert cli.main(["history", "best_model"]) == 0


def test_a_folder_of_somebody_else_is_no_model_of_ours(
    deployed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (deployed / "theirs" / "1").mkdir(parents=True)
    (deployed / "theirs" / "config.pbtxt").write_text("")
    assert cli.main(["history", "theirs"]) == 3
    assert "is not of a deploy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: True, "new_model is registered in MLflow and was never deployed"),
        (lambda: False, "Nothing was ever deployed"),
    ],
)
def test_a_model_that_is_only_registered_is_told_as_that(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], bool], words: str
) -> None:
    monkeypatch.setattr(known_models, "_is_registered", lambda settings, model: answer())
    with pytest.raises(NotFound, match=words):
        known_models.require_known(world.settings, "new_model")


def test_without_an_mlflow_nobody_is_asked(tmp_path: Path) -> None:
    assert not known_models._is_registered(Settings(repository=tmp_path), "m")
    away = changed(
        Settings(),
        repository=tmp_path,
        mlflow__tracking_uri="http://127.0.0.1:1",
        mlflow__feedback_timeout_s=2,
    )
    assert not known_models._is_registered(away, "m")
