"""A trainer that a user adds in one file: the one that the documentation shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_code import train_model
from ml_code.training import trainers
from ml_code.training.errors import InvalidRequestError
from ml_code.training.request import TrainingRequest
from ml_code.training.trained import infer
from ml_code.training.trainer import load_trainer, option_names, train, trainer_names

REPOSITORY = Path(__file__).parents[2]
NAMES = ["classifier", "cnn", "lstm"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are trainers."""
    monkeypatch.setattr(trainers, "__path__", [*trainers.__path__, str(tmp_path)])
    yield tmp_path
    for name in ("mine", "ridge"):
        sys.modules.pop(f"{trainers.__name__}.{name}", None)


def documented() -> str:
    (example,) = re.findall(
        r"^## A trainer of your own$.+?```python\n(.+?)```",
        (REPOSITORY / "docs/training.md").read_text("utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return str(example)


def test_the_documented_trainer_trains_exports_and_holds_parity(folder: Path) -> None:
    (folder / "ridge.py").write_text(documented(), "utf-8")
    trained = train(TrainingRequest(trainer="ridge", options={"penalty": "0.5"}))
    assert trained.parity.holds(1e-4)
    assert trained.parity.rows == trained.held_out.rows == trained.params["test_rows"]
    assert trained.params.items() >= {"trainer": "ridge", "penalty": 0.5, "seed": 7}.items()
    assert trained.held_out.task == "regression"
    (forecast,) = infer(trained.onnx, trained.held_out.inputs).values()
    rmse = np.sqrt(np.mean((forecast - trained.held_out.target) ** 2))
    assert rmse == pytest.approx(trained.metrics["test_rmse"], rel=1e-4)
    assert rmse < trained.held_out.target.std()


def test_a_folder_in_trainers_path_adds_its_files_to_the_help(tmp_path: Path) -> None:
    (tmp_path / "ridge.py").write_text(documented(), "utf-8")
    (tmp_path / "broken.py").write_text("def (", "utf-8")
    program = [sys.executable, "-m", "ml_code.train_model", "--help"]
    environment = {**os.environ, "TRAINERS_PATH": str(tmp_path)}
    text = subprocess.run(
        program, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(
        r"^  ridge +Predicts a number from a row of numbers by ridge regression", text, re.MULTILINE
    )
    assert re.search(r"^  broken *$", text, re.MULTILINE)
    assert [name for name in NAMES if f"\n  {name} " in text] == NAMES


def test_a_file_cannot_take_the_place_of_a_trainer_that_is_here(folder: Path) -> None:
    (folder / "classifier.py").write_text(documented(), "utf-8")
    assert trainer_names() == NAMES
    assert "dataset" in option_names(load_trainer("classifier"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("import nowhere_to_be_found", "needs nowhere_to_be_found, which is not installed"),
        ("def (", "can't be imported"),
        ("1 / 0", "can't be imported"),
        ("", "is no trainer"),
        ("Options, train = int, print", "is no trainer"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Options:\n    a: int = 1\ntrain = print",
            "is no trainer",
        ),
    ],
)
def test_a_file_that_is_no_trainer_is_named_with_what_is_wrong(folder: Path, content: str, says: str) -> None:
    (folder / "mine.py").write_text(content, "utf-8")
    with pytest.raises(InvalidRequestError, match=says) as refusal:
        load_trainer("mine")
    assert refusal.value.hint


def test_an_option_of_the_name_of_one_that_all_have_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(documented().replace("penalty", "seed"), "utf-8")
    assert train_model.main(["--trainer", "mine", "--help"]) == 2
    assert "calls an option 'seed', which every trainer has" in capsys.readouterr().err
