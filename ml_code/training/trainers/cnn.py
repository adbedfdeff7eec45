"""Recognizes handwritten digits of 8 x 8 pixels by a small convolutional network (PyTorch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ml_code.training import plots, split
from ml_code.training.heldout import PROBABILITIES_NAME, HeldOut
from ml_code.training.option import option
from ml_code.training.scores import classification_scores
from ml_code.training.torch_network import Part, Schedule, answers, class_answers, export, fit, seeded
from ml_code.training.trained import TrainedModel
from ml_code.training.trainer import Training

INPUT_NAME = "image"
OUTPUT_NAMES = ("label", PROBABILITIES_NAME)
BRIGHTEST = 16.0
"""The data set's pixels are 0 to 16."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the trainer."""

    channels: int = option(
        16, "features of the first layer, twice as many of the second", at_least=1, at_most=1024
    )
    dropout: float = option(0.2, "share of features left out in training", at_least=0, at_most=0.95)
    epochs: int = option(12, "passes over the training images", at_least=1, at_most=100_000)
    batch_rows: int = option(64, "images of one training step", at_least=1)
    learning_rate: float = option(0.005, "step size of Adam", above=0, at_most=1)


class DigitNetwork(nn.Module):
    """A network that takes unscaled images, and returns label and probabilities.

    Args:
        channels: Features of the first layer.
        dropout: Share of features left out in training.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * channels * 16, 10),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``label`` ``[rows]``, ``probabilities`` ``[rows, 10]`` of images ``[rows, 1, 8, 8]``, 0 to 16."""
        return class_answers(self.logits(image))

    def logits(self, image: Tensor) -> Tensor:
        """The last layer, ``[rows, 10]``."""
        scores: Tensor = self.layers(image / BRIGHTEST)
        return scores

    def loss(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy in nats; ``target`` are digits ``[rows]``."""
        return nn.functional.cross_entropy(self.logits(image), target)


def train(options: Options, training: Training) -> TrainedModel:
    """Trains on 60 % of the images, chooses the epoch on 20 %, measures on 20 %, exports.

    Args:
        options: See Options.
        training: Its seed decides the split, the first weights and the order of the images.

    Returns:
        A model with the input ``image`` float32 ``[batch, 1, 8, 8]``, 0 to 16; outputs ``label`` int64
        ``[batch]`` and ``probabilities`` float32 ``[batch, 10]``.
    """
    digits = load_digits()
    images, labels = digits.images[:, None].astype(np.float32), digits.target.astype(np.int64)
    rows = split.by_content(images, training.seed)
    split.check_classes(rows, labels)
    parts: dict[str, Part] = {
        part: (images[getattr(rows, part)], labels[getattr(rows, part)])
        for part in ("train", "validation", "test")
    }
    with seeded(training.seed):
        network = DigitNetwork(options.channels, options.dropout)
        schedule = Schedule(options.epochs, options.batch_rows, options.learning_rate)
        curves = fit(network, network.loss, parts["train"], parts["validation"], schedule, training)
        found = {part: answers(network, x, OUTPUT_NAMES) for part, (x, _) in parts.items()}
        exported = export(network, images[:1], INPUT_NAME, OUTPUT_NAMES)
    image, target = parts["test"]
    return TrainedModel.from_export(
        exported,
        training,
        held_out=HeldOut({INPUT_NAME: image}, target, "classification"),
        reference=found["test"],
        data={"images": images, "labels": labels},
        metrics={
            name: value
            for part in ("validation", "test")
            for name, value in classification_scores(
                parts[part][1], found[part][PROBABILITIES_NAME], part
            ).items()
        },
        params=rows.counts,
        curves=curves,
        plots={
            "loss": plots.loss_curves(curves, "cross-entropy, nats"),
            "confusion_matrix": plots.confusion_matrix(
                target, found["test"]["label"], [str(digit) for digit in range(10)]
            ),
            "calibration": plots.calibration(target, found["test"][PROBABILITIES_NAME]),
        },
    )
