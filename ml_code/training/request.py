"""What to train and where to register it, checked; and the errors of this package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from ml_code.triton_deploy.errors import InvalidInput
from ml_code.triton_deploy.names import check_alias, check_model

DATASETS = ("breast_cancer", "digits")
MAX_GOLDEN_ROWS = 64


class TrainingError(Exception):
    """Base of what this module raises on purpose.

    Args:
        message: What went wrong.
        hint: What whoever reads it can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class InvalidRequestError(TrainingError):
    """An argument or an environment variable is not usable; nothing was done."""

    exit_code = 2


class RegistryError(TrainingError):
    """MLflow or its artifact store refused or could not be reached; the alias moves last."""

    exit_code = 3


class ParityError(TrainingError):
    """The exported ONNX model does not answer as the trained one; nothing was registered."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train and where to register it.

    Args:
        model: Name of the registered model, one that the deployer accepts.
        alias: Alias to point at the new version, one that the deployer accepts; None or empty registers the version
            and moves no alias, for a gate that decides later.
        dataset: One of :data:`DATASETS`.
        experiment: MLflow experiment of the run; created if it does not exist. Its artifact
            location decides whether artifacts go through the server or directly to S3.
        seed: Seed of the split and the solver, 0 to 2**32 - 1.
        regularization: Strength of the L2 penalty (scikit-learn's ``1 / C``), > 0.
        parity_tolerance: Largest accepted absolute difference of a probability between the
            trained model and its ONNX export, > 0.
        golden_rows: Number of held-out rows logged as golden inputs, 1 to :data:`MAX_GOLDEN_ROWS`.

    Raises:
        InvalidRequestError: A value is outside what is said above.
    """

    model: str = "best_model"
    alias: str | None = "A"
    dataset: str = "breast_cancer"
    experiment: str = "training"
    seed: int = 7
    regularization: float = 1.0
    parity_tolerance: float = 1e-4
    golden_rows: int = 5

    def __post_init__(self) -> None:
        try:
            check_model(self.model)
            if self.alias:
                check_alias(self.alias)
        except InvalidInput as error:
            raise InvalidRequestError(error.message, error.hint) from error
        if not self.experiment.strip():
            _reject("experiment is empty", "Give the experiment a name.")
        if self.dataset not in DATASETS:
            _reject(f"unknown dataset {self.dataset!r}", f"Use one of {', '.join(DATASETS)}.")
        if not 0 <= self.seed < 2**32:
            _reject(f"seed {self.seed} is out of range", "Use 0 to 4294967295.")
        for field, number in (
            ("regularization", self.regularization),
            ("parity tolerance", self.parity_tolerance),
        ):
            if not (math.isfinite(number) and number > 0):
                _reject(f"{field} {number} is not a positive number", "Use a value above 0.")
        if not 1 <= self.golden_rows <= MAX_GOLDEN_ROWS:
            _reject(f"golden rows {self.golden_rows} is out of range", f"Use 1 to {MAX_GOLDEN_ROWS}.")


def check_tracking_uri(uri: str) -> None:
    """Raises InvalidRequestError unless `uri` is the http(s) address of a server."""
    example = "e.g. http://localhost:5000"
    if not uri:
        _reject("MLFLOW_TRACKING_URI is not set", f"Set it, {example}.")
    if not uri.startswith(("http://", "https://")):
        # MLflow would take `localhost:5000` for a folder. A local store is of no use either:
        # the deployer reads the registry by REST.
        _reject(
            f"tracking URI {uri!r} is not the address of an MLflow server",
            f"It starts with http:// or https://, {example}.",
        )


def _reject(message: str, hint: str) -> NoReturn:
    raise InvalidRequestError(message, hint)
