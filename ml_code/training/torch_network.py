"""Code of the PyTorch trainers: a reproducible fit with curves, answers as arrays, the export to ONNX."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ml_code.training.trainer import Training

OPSET = 17
"""ONNX Runtime 1.12 and later load it: old enough for every Triton image still in use."""

Part = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Inputs ``[rows, ...]`` and their targets ``[rows, ...]``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a network is fitted.

    Args:
        epochs: Passes over the training rows.
        batch_rows: Rows of one step.
        learning_rate: Step size of Adam.
    """

    epochs: int
    batch_rows: int
    learning_rate: float


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Makes PyTorch compute the same from the same seed while the block runs, and leaves it as it was.

    Args:
        seed: 0 to 2**32 - 1.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        # How a sum is split over threads changes its last bits, and with them the bytes of the model.
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)


def fit(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    train: Part,
    validation: Part,
    schedule: Schedule,
    training: Training,
) -> dict[str, list[float]]:
    """Fits a network by Adam, and leaves it in evaluation mode with the weights of its best epoch.

    Args:
        network: The network whose parameters ``loss`` uses.
        loss: Mean loss of inputs and their targets.
        train: The rows to learn from.
        validation: The rows that decide which epoch was the best.
        schedule: Length and steps of the fit.
        training: Source of the progress bar.

    Returns:
        ``train_loss`` and ``validation_loss`` by epoch.
    """
    inputs, target = map(torch.from_numpy, train)
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    curves: dict[str, list[float]] = {"train_loss": [], "validation_loss": []}
    best = copy.deepcopy(network.state_dict())
    for _ in training.progress(range(schedule.epochs), "epochs"):
        network.train()
        losses = []
        for rows in torch.randperm(len(inputs)).split(schedule.batch_rows):
            optimizer.zero_grad()
            value = loss(inputs[rows], target[rows])
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(value.item() * len(rows))
        curves["train_loss"].append(sum(losses) / len(inputs))
        curves["validation_loss"].append(_loss_of(network, loss, validation))
        if curves["validation_loss"][-1] <= min(curves["validation_loss"]):
            best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    network.eval()
    return curves


def answers(
    network: nn.Module, inputs: npt.NDArray[Any], names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Returns the network's answers in evaluation mode, by output name.

    Args:
        network: Returns a tensor, or a tuple of them in the order of ``names``.
        inputs: Its only input, ``[rows, ...]``.
        names: The names of its outputs.
    """
    network.eval()
    with torch.no_grad():
        found = network(torch.from_numpy(inputs))
    tensors = found if isinstance(found, tuple) else (found,)
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def export(network: nn.Module, row: npt.NDArray[Any], input_name: str, output_names: Sequence[str]) -> bytes:
    """Exports a network with one input to ONNX, for batches of any size; equal networks give equal bytes.

    Args:
        network: In evaluation mode.
        row: One row of its input, ``[1, ...]``.
        input_name: The name of the input.
        output_names: The names of the outputs, in order.

    Returns:
        The serialized file, opset :data:`OPSET`.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # PyTorch warns that this is the older exporter, and that it follows one example. The newer
        # exporter writes opset 18 and leaves 17 to a converter that it calls a fallback, writes IR version
        # 10 (the older one: 8), needs onnxscript, and takes 12 s instead of 0.1 s. The parity check, with
        # one row and with many, finds a branch of the network that the example did not take.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.from_numpy(row),),
            buffer,
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_axes={name: {0: "batch"} for name in (input_name, *output_names)},
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def class_answers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``label`` int64 ``[rows]``, ``probabilities`` float32 ``[rows, classes]`` of a classifier's logits."""
    return logits.argmax(dim=1), logits.softmax(dim=1)


def _loss_of(network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], part: Part) -> float:
    network.eval()
    with torch.no_grad():
        value = loss(*map(torch.from_numpy, part)).item()
    return float(value)
