"""Forecasts the next prices of a series from the last ones by an LSTM (PyTorch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml_code.training import plots, table
from ml_code.training.errors import DataError
from ml_code.training.heldout import HeldOut
from ml_code.training.option import option
from ml_code.training.split import chronological
from ml_code.training.torch_network import Part, Schedule, answers, export, fit, seeded
from ml_code.training.trained import TrainedModel
from ml_code.training.trainer import Training

INPUT_NAME = "prices"
OUTPUT_NAME = "forecast"
MIN_WINDOWS = 20
"""Fewest windows that a part of the series may have: a score over fewer says nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the trainer."""

    data: str = option(
        "", "CSV file, a path or s3://bucket/key: one step a line, oldest first; else a series is generated"
    )
    column: str = option("close", "column of --data with the prices, all above 0")
    time_column: str = option("", "column of --data with the time, to check that it never goes back")
    steps: int = option(1500, "length of the generated series, steps", at_least=1, at_most=10_000_000)
    window: int = option(24, "steps that the model is given", at_least=2, at_most=10_000)
    horizon: int = option(1, "steps that it forecasts", at_least=1, at_most=1000)
    hidden: int = option(24, "size of the LSTM's state", at_least=1, at_most=4096)
    epochs: int = option(15, "passes over the training windows", at_least=1, at_most=100_000)
    batch_rows: int = option(32, "windows of one training step", at_least=1)
    learning_rate: float = option(0.01, "step size of Adam", above=0, at_most=1)


class Forecaster(nn.Module):
    """Forecasts prices by their standardized log-returns, so it also works at a level that it never saw.

    Args:
        hidden: Size of the LSTM's state.
        horizon: Steps ahead.
        mean: Mean of the training part's log-returns.
        scale: Their standard deviation.
    """

    def __init__(self, hidden: int, horizon: int, mean: float, scale: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, horizon)

    def forward(self, prices: Tensor) -> Tensor:
        """Forecasts.

        Args:
            prices: ``[rows, window, 1]``, above 0.

        Returns:
            The next prices, ``[rows, horizon]``, in the same unit.
        """
        returns = self.standardized(prices) * self.scale + self.mean
        return prices[:, -1] * returns.cumsum(dim=1).exp()

    def standardized(self, prices: Tensor) -> Tensor:
        """The next log-returns ``[rows, horizon]``, standardized; prices as above."""
        logs = prices.log()
        states, _ = self.lstm((logs[:, 1:] - logs[:, :-1] - self.mean) / self.scale)
        forecast: Tensor = self.head(states[:, -1])
        return forecast

    def loss(self, prices: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of the standardized log-returns; ``target`` are prices ``[rows, horizon]``."""
        before = torch.cat([prices[:, -1], target[:, :-1]], dim=1)
        actual = ((target / before).log() - self.mean) / self.scale
        return nn.functional.mse_loss(self.standardized(prices), actual)


def train(options: Options, training: Training) -> TrainedModel:
    """Trains on 60 % of the series, chooses the epoch on the next 20 %, measures on the rest, exports.

    Args:
        options: See Options.
        training: Its seed decides the first weights, the order of the windows and a generated series.

    Returns:
        A model with the input ``prices`` float32 ``[batch, window, 1]`` and the output ``forecast``
        float32 ``[batch, horizon]``.

    Raises:
        DataError: The table can't be read or used, or is too short.
    """
    series = read(options) if options.data else generated(options.steps, training.seed)
    train_steps, validation_steps, test_steps = (series[part] for part in chronological(len(series)))
    parts = {
        "train": windows(train_steps, options, "training"),
        "validation": windows(validation_steps, options, "validation"),
        "test": windows(test_steps, options, "test"),
    }
    with seeded(training.seed):
        network = _network(train_steps, options)
        schedule = Schedule(options.epochs, options.batch_rows, options.learning_rate)
        curves = fit(network, network.loss, parts["train"], parts["validation"], schedule, training)
        forecasts = {
            name: answers(network, prices, [OUTPUT_NAME])[OUTPUT_NAME] for name, (prices, _) in parts.items()
        }
        exported = export(network, parts["test"][0][:1], INPUT_NAME, [OUTPUT_NAME])
    prices, target = parts["test"]
    return TrainedModel.from_export(
        exported,
        training,
        held_out=HeldOut({INPUT_NAME: prices}, target, "regression"),
        reference={OUTPUT_NAME: forecasts["test"]},
        data={"prices": series},
        metrics={
            name: value
            for part in ("validation", "test")
            for name, value in _scores(*parts[part], forecasts[part], part).items()
        },
        params={f"{name}_rows": len(part[0]) for name, part in parts.items()},
        curves=curves,
        plots={
            "loss": plots.loss_curves(curves, "mean squared error of standardized log-returns"),
            "forecast": plots.forecast(target[:, 0], forecasts["test"][:, 0], "price"),
        },
    )


def generated(steps: int, seed: int) -> npt.NDArray[np.float64]:
    """A price-like series: log-returns with momentum, a daily cycle of 24 steps, and noise.

    Args:
        steps: Its length.
        seed: Another seed is another series.

    Returns:
        float64 ``[steps]``, above 0, around 100 at the beginning.
    """
    noise = np.random.default_rng(seed).normal(0, 0.004, steps)
    cycle = 0.004 * np.sin(2 * np.pi * np.arange(steps) / 24)
    returns = np.zeros(steps)
    for step in range(1, steps):
        returns[step] = 0.5 * returns[step - 1] + cycle[step] + noise[step]
    prices: npt.NDArray[np.float64] = 100 * np.exp(np.cumsum(returns))
    return prices


def read(options: Options) -> npt.NDArray[np.float64]:
    """Reads the user's series; raises DataError."""
    content = table.read_table(options.data)
    if options.time_column:
        table.need_ascending(content, options.time_column, options.data)
    series = table.numbers(content, [options.column], options.data)[:, 0]
    if (series <= 0).any():
        row = int((series <= 0).argmax())
        raise DataError(
            f"{options.data}, column {options.column!r}, row {row + 1}: the price {series[row]:g} is not above 0",
            "The model works on ratios of prices: correct the row, or add a constant to all of them.",
        )
    return series


def windows(series: npt.NDArray[np.float64], options: Options, part: str) -> Part:
    """Cuts one part of the series into windows and what follows each; none reaches into another part.

    Args:
        series: The part, ``[steps]``.
        options: Length of window and horizon.
        part: Its name, for the message.

    Returns:
        float32 ``[windows, window, 1]`` and ``[windows, horizon]``.

    Raises:
        DataError: It is too short.
    """
    length = options.window + options.horizon
    if len(series) < length + MIN_WINDOWS - 1:
        raise DataError(
            f"too few rows: the {part} part has {len(series)}, and {MIN_WINDOWS} windows of"
            f" {options.window} + {options.horizon} steps need {length + MIN_WINDOWS - 1}",
            f"Give a series of at least {5 * (length + MIN_WINDOWS)} steps, or a shorter window.",
        )
    # A copy, because PyTorch warns of overlapping views.
    cut = np.lib.stride_tricks.sliding_window_view(series, length).astype(np.float32)
    return cut[:, : options.window, None].copy(), cut[:, options.window :].copy()


def _network(train_steps: npt.NDArray[np.float64], options: Options) -> Forecaster:
    returns = np.diff(np.log(train_steps))
    if not returns.std() > 0:
        raise DataError("the prices of the training part never change", "Give a series that does.")
    return Forecaster(options.hidden, options.horizon, float(returns.mean()), float(returns.std()))


def _scores(
    prices: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    forecast: npt.NDArray[np.float32],
    prefix: str,
) -> dict[str, float]:
    """Errors in the unit of the price; the skill is 1 for a perfect forecast, 0 for the last price."""
    error = forecast.astype(np.float64) - target
    rmse = float(np.sqrt(np.square(error).mean()))
    last_price_rmse = float(np.sqrt(np.square(prices[:, -1].astype(np.float64) - target).mean()))
    return {
        f"{prefix}_mae": float(np.abs(error).mean()),
        f"{prefix}_rmse": rmse,
        f"{prefix}_last_price_rmse": last_price_rmse,
        f"{prefix}_skill": 1 - rmse / last_price_rmse if last_price_rmse else 0.0,
    }
