"""Errors that training raises on purpose: a message, and a hint for the user."""

from __future__ import annotations

from typing import ClassVar


class TrainingError(Exception):
    """Base of the errors that this package raises on purpose.

    Args:
        message: What went wrong.
        hint: What the user can do about it.
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
    """The exported ONNX model fails, or answers otherwise than the trained model; nothing was registered."""

    exit_code = 4


class DataError(TrainingError):
    """The data can't be read, or nothing can be learned from it; nothing was registered."""

    exit_code = 5
