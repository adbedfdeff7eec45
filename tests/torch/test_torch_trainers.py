"""The trainers on PyTorch: no leakage, the same bytes from the same seed, files that any Triton in use can load."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ml_code.training.errors import DataError
from ml_code.training.request import TrainingRequest
from ml_code.training.split import chronological
from ml_code.training.trained import TrainedModel, infer
from ml_code.training.trainer import Training, train
from tests.support.lazily import lazily

torch = lazily("torch")
torch_network = lazily("ml_code.training.torch_network")
lstm = lazily("ml_code.training.trainers.lstm")

REPOSITORY = Path(__file__).parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "lstm": {"steps": 400, "window": 6, "hidden": 4, "epochs": 3, "horizon": 2},
    "cnn": {"channels": 2, "epochs": 3},
}


@pytest.fixture(scope="module", params=["lstm", "cnn"])
def small(request: pytest.FixtureRequest) -> TrainedModel:
    return train(TrainingRequest(trainer=request.param, options=SMALL[request.param]))


@pytest.fixture(scope="module")
def forecaster() -> TrainedModel:
    return train(TrainingRequest(trainer="lstm"))


def test_the_same_seed_gives_the_same_file_and_another_seed_another(small: TrainedModel) -> None:
    name = str(small.params["trainer"])
    threads = torch().get_num_threads()
    torch().manual_seed(99)
    drawn = torch().rand(1)
    torch().manual_seed(99)
    again = train(TrainingRequest(trainer=name, options=SMALL[name]))
    assert again.onnx == small.onnx
    assert again.metrics == small.metrics
    assert again.held_out.to_bytes() == small.held_out.to_bytes()
    assert train(TrainingRequest(trainer=name, options=SMALL[name], seed=8)).onnx != small.onnx
    # Whoever calls it keeps his own random numbers and threads.
    assert torch().rand(1) == drawn
    assert torch().get_num_threads() == threads
    assert not torch().are_deterministic_algorithms_enabled()


def test_the_file_is_old_enough_for_any_triton_and_takes_any_batch(small: TrainedModel) -> None:
    model = onnx.load_model_from_string(small.onnx)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version <= 8  # what ONNX Runtime 1.12 loads
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    ((name, rows),) = small.held_out.inputs.items()
    alone = infer(small.onnx, {name: rows[:1]})
    for output, array in infer(small.onnx, {name: np.repeat(rows[:1], 64, axis=0)}).items():
        assert array.shape == (64, *alone[output].shape[1:])
        np.testing.assert_allclose(array, np.repeat(alone[output], 64, axis=0), rtol=1e-5)


def test_parity_curves_plots_and_golden_rows_are_there(small: TrainedModel) -> None:
    assert small.parity.holds(1e-5)
    assert small.parity.rows == small.held_out.rows == small.params["test_rows"]
    assert {name: len(curve) for name, curve in small.curves.items()} == {
        "train_loss": 3,
        "validation_loss": 3,
    }
    assert small.curves["train_loss"][-1] < small.curves["train_loss"][0]
    assert {"loss"} < set(small.plots)
    assert all(png.startswith(b"\x89PNG") for png in small.plots.values())
    assert all(len(array) == 5 for array in (*small.examples.values(), *small.expected.values()))


def test_the_forecast_beats_the_last_price(forecaster: TrainedModel) -> None:
    assert forecaster.metrics["test_skill"] > 0.2
    assert forecaster.metrics["validation_skill"] > 0.2
    forecast = infer(forecaster.onnx, forecaster.held_out.inputs)["forecast"]
    rmse = np.sqrt(np.square(forecast.astype(float) - forecaster.held_out.target).mean())
    assert rmse == pytest.approx(forecaster.metrics["test_rmse"], rel=1e-3)


def test_the_forecast_is_in_the_unit_of_the_prices_at_any_level(forecaster: TrainedModel) -> None:
    prices = forecaster.held_out.inputs["prices"][:20]
    one, many = (infer(forecaster.onnx, {"prices": prices * level})["forecast"] for level in (1, 250))
    np.testing.assert_allclose(many, one * 250, rtol=1e-4)


def test_the_network_recognizes_digits_that_it_has_not_seen() -> None:
    assert train(TrainingRequest(trainer="cnn")).metrics["test_accuracy"] > 0.93


def test_no_window_reaches_into_another_part_and_what_follows_it_is_its_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    series = np.arange(1, 401, dtype=float)
    cut = lstm().windows
    seen = {}

    def watched(steps: Any, options: Any, part: str) -> Any:
        prices, target = cut(steps, options, part)
        assert (prices.shape[1:], target.shape[1:]) == ((6, 1), (2,))
        np.testing.assert_array_equal(prices[:, -1] + [1, 2], target)
        seen[part] = {*prices.ravel(), *target.ravel()}
        return prices, target

    monkeypatch.setattr(lstm(), "windows", watched)
    monkeypatch.setattr(lstm(), "generated", lambda *_: series)
    lstm().train(lstm().Options(**SMALL["lstm"]), Training(seed=7, golden_rows=5))
    assert {part: len(steps) for part, steps in seen.items()} == {
        "training": 240,
        "validation": 80,
        "test": 80,
    }
    assert len(set().union(*seen.values())) == 400


def test_what_comes_after_the_training_part_changes_neither_scaling_nor_what_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    series = lstm().generated(400, 3)
    changed = series.copy()
    changed[chronological(400)[2]] *= np.linspace(1, 5, 80)
    options = lstm().Options(**SMALL["lstm"])
    found = []
    for given in (series, changed):
        monkeypatch.setattr(lstm(), "generated", lambda *_, given=given: given)
        found.append(lstm().train(options, Training(seed=7, golden_rows=5)))
    assert found[0].onnx == found[1].onnx
    assert found[0].metrics["test_rmse"] < found[1].metrics["test_rmse"]


def test_the_epoch_is_chosen_by_the_validation_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # A step far too large: what the last epoch leaves is not the best.
    options = {**SMALL["lstm"], "epochs": 12, "learning_rate": 0.9}
    fitted: list[Any] = []
    fit = lstm().fit

    def watched(network: Any, loss: Any, train: Any, validation: Any, *rest: Any) -> dict[str, list[float]]:
        curves = fit(network, loss, train, validation, *rest)
        with torch().no_grad():
            fitted.append(loss(*map(torch().from_numpy, validation)).item())
        return curves

    monkeypatch.setattr(lstm(), "fit", watched)
    curves = train(TrainingRequest(trainer="lstm", options=options)).curves["validation_loss"]
    assert fitted == [pytest.approx(min(curves))]
    assert curves[-1] > min(curves)


def prices_file(folder: Path, prices: Any, column: str = "close") -> str:
    path = folder / "prices.csv"
    lines = [f"day,{column}", *(f"{2000 + day},{price}" for day, price in enumerate(prices))]
    path.write_text("\n".join(lines), "utf-8")
    return str(path)


def test_a_series_from_a_file_is_that_of_the_file(tmp_path: Path) -> None:
    options = {**SMALL["lstm"], "time_column": "day", "column": "price"}
    location = prices_file(tmp_path, lstm().generated(400, 7).tolist(), "price")
    read = train(TrainingRequest(trainer="lstm", options={**options, "data": location}))
    assert read.onnx == train(TrainingRequest(trainer="lstm", options=SMALL["lstm"])).onnx


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ([1.0, 2.0] * 40, "too few rows: the validation part has 16, and 20 windows of 6 . 2 steps need 27"),
        ([1.0, 2.0] * 100 + [0.0] + [1.0] * 100, "row 201: the price 0 is not above 0"),
        ([1.0, 2.0] * 100 + [-1.0] + [1.0] * 100, "row 201: the price -1 is not above 0"),
        ([1.0, 2.0] * 100 + [""] + [1.0] * 100, "row 201: an empty cell or NaN"),
        ([3.0] * 400, "never change"),
    ],
)
def test_a_series_that_cannot_be_learned_from_is_refused(tmp_path: Path, prices: Any, says: str) -> None:
    options = {**SMALL["lstm"], "data": prices_file(tmp_path, prices)}
    with pytest.raises(DataError, match=says) as refusal:
        train(TrainingRequest(trainer="lstm", options=options))
    assert refusal.value.hint


def test_what_is_computed_under_a_seed_is_left_as_it_was_after_an_error() -> None:
    threads = torch().get_num_threads()
    with contextlib.suppress(ZeroDivisionError), torch_network().seeded(1):
        assert torch().get_num_threads() == 1
        raise ZeroDivisionError
    assert torch().get_num_threads() == threads
    assert not torch().are_deterministic_algorithms_enabled()


PROGRESS = (
    "from ml_code.training.trainer import Training\nprint(sum(Training(1, 1).progress(range(5), 'epochs')))"
)


def test_progress_is_shown_on_a_terminal_only() -> None:
    command = [sys.executable, "-c", PROGRESS]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment["TERM"] = "xterm"
    piped = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert (piped.stdout, piped.stderr) == ("10\n", "")

    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True
        )
        os.close(theirs)
        shown = io.BytesIO()
        with contextlib.suppress(OSError):  # how a terminal that was hung up ends
            while part := terminal.read(1024):
                shown.write(part)
    assert done.stdout == b"10\n"
    assert b"epochs" in shown.getvalue()
