"""The request for a training: model, trainer, options and place in MLflow, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ml_code.training.errors import InvalidRequestError
from ml_code.training.trainer import check_trainer
from ml_code.triton_deploy.errors import InvalidInput
from ml_code.triton_deploy.rules.names import check_alias, check_model
from ml_code.triton_deploy.rules.web_address import fault, shown, tracking_remedy

MAX_GOLDEN_ROWS = 64


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A model to train, and its place in MLflow.

    Args:
        model: Name of the registered model, a name that the deployer accepts.
        alias: Alias to point at the new version, a name that the deployer accepts; None or empty registers
            the version and moves no alias, for a gate that decides later.
        trainer: One of :func:`trainer_names`.
        options: Options of the trainer by name; all others have their defaults. Checked when the trainer
            is imported.
        experiment: MLflow experiment of the run; created if it does not exist. Its artifact
            location decides whether artifacts go through the server or directly to S3.
        seed: Seed of all that is random, the split included, 0 to 2**32 - 1.
        parity_tolerance: Largest accepted difference of a number between the trained model and its ONNX
            export, the lesser of the absolute and the relative difference; > 0.
        golden_rows: Number of held-out rows logged as golden inputs, 1 to :data:`MAX_GOLDEN_ROWS`.

    Raises:
        InvalidRequestError: A value is outside these limits.
    """

    model: str = "best_model"
    alias: str | None = "A"
    trainer: str = "classifier"
    options: Mapping[str, Any] = field(default_factory=dict)
    experiment: str = "training"
    seed: int = 7
    parity_tolerance: float = 1e-4
    golden_rows: int = 5

    def __post_init__(self) -> None:
        try:
            check_model(self.model)
            if self.alias:
                check_alias(self.alias)
        except InvalidInput as error:
            raise InvalidRequestError(error.message, error.hint) from error
        check_trainer(self.trainer)
        if not self.experiment.strip():
            _reject("experiment is empty", "Give the experiment a name.")
        if not 0 <= self.seed < 2**32:
            _reject(f"seed {self.seed} is out of range", "Use 0 to 4294967295.")
        if not (math.isfinite(self.parity_tolerance) and self.parity_tolerance > 0):
            _reject(
                f"parity tolerance {self.parity_tolerance} is not a positive number", "Use a value above 0."
            )
        if not 1 <= self.golden_rows <= MAX_GOLDEN_ROWS:
            _reject(f"golden rows {self.golden_rows} is out of range", f"Use 1 to {MAX_GOLDEN_ROWS}.")


def check_tracking_uri(uri: str) -> None:
    """Raises InvalidRequestError unless `uri` is the http(s) address of a server."""
    example = "e.g. http://localhost:5000"
    if not uri:
        _reject("MLFLOW_TRACKING_URI is not set", f"Set it, {example}.")
    if why := fault(uri):
        # MLflow would take `localhost:5000` for a folder. A local store is of no use either:
        # the deployer reads the registry by REST.
        _reject(
            f"tracking URI {shown(uri)!r} is not the address of an MLflow server: it is {why}",
            tracking_remedy(uri),
        )


def _reject(message: str, hint: str) -> NoReturn:
    raise InvalidRequestError(message, hint)
