"""The classifier, exported by a tool that gets the weights a little wrong: a trainer as a user adds one, for tests."""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from unittest import mock

from ml_code.training.trained import TrainedModel
from ml_code.training.trainer import Training
from ml_code.training.trainers import classifier

Options = classifier.Options


def train(options: classifier.Options, training: Training) -> TrainedModel:
    """Trains as the classifier does, and exports another model."""
    export = classifier.export

    def export_something_else(fitted: Any, features: int, classes: int) -> bytes:
        damaged = deepcopy(fitted)
        damaged[-1].coef_ *= 1.05
        return export(damaged, features, classes)

    with mock.patch.object(classifier, "export", export_something_else):
        return classifier.train(options, training)
