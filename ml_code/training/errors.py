"""What training raises on purpose: what happened, and what whoever reads it can do."""

from __future__ import annotations

from typing import ClassVar


class TrainingError(Exception):
    """Base of what this package raises on purpose.

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
    """The exported ONNX model does not answer, or not as the trained one does; nothing was registered."""

    exit_code = 4


class DataError(TrainingError):
    """The data can't be read, or nothing can be learned from it; nothing was registered."""

    exit_code = 5
