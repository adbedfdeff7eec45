"""Finds the trainers, which are files in ``trainers/``, and runs the one that a request names."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from ml_code.training.errors import InvalidRequestError
from ml_code.training.option import from_values

if TYPE_CHECKING:
    from ml_code.training.request import TrainingRequest
    from ml_code.training.trained import TrainedModel

TRAINERS = "ml_code.training.trainers"
"""The package of the trainers. They import this module, so it finds them by name, like a user's trainers."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Training:
    """A trainer's input beside its options.

    Args:
        seed: Seed of all that is random: the split, the first weights, the order of the rows; 0 to 2**32 - 1.
        golden_rows: Number of held-out rows that become golden inputs.
    """

    seed: int
    golden_rows: int

    def progress(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Yields the items, with a progress bar on stderr if that is a terminal.

        Args:
            items: The items, for example the epochs.
            what: Name of the items, shown before the bar.
        """
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        yield from track(items, what, console=console, disable=not console.is_terminal, transient=True)


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer that was found.

    Args:
        name: The name of its file, without ``.py``.
        options: The dataclass of its options, see :func:`option`.
        train: Trains with such options, and exports.
    """

    name: str
    options: type
    train: Callable[[Any, Training], TrainedModel]


def trainer_names() -> list[str]:
    """The names of all trainers, sorted; imports none of them."""
    return sorted(
        {
            module.name
            for module in pkgutil.iter_modules(importlib.import_module(TRAINERS).__path__)
            if not module.ispkg
        }
    )


def summary(name: str) -> str:
    """The first line of a trainer's docstring, without an import of its file, which may take seconds."""
    spec = find_spec(f"{TRAINERS}.{name}")
    path = Path(spec.origin) if spec and spec.origin else None
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path else None
    except (SyntaxError, UnicodeDecodeError, OSError):
        # load_trainer reports the fault in the file. The other trainers must remain usable.
        text = None
    return (text or "").partition("\n")[0]


def load_trainer(name: str) -> Trainer:
    """Imports a trainer.

    Args:
        name: One of :func:`trainer_names`.

    Raises:
        InvalidRequestError: There is no trainer of that name, a library that it needs is not installed, or
            its file can't be imported, or defines no trainer.
    """
    check_trainer(name)
    try:
        module = importlib.import_module(f"{TRAINERS}.{name}")
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            f"the trainer {name!r} needs {error.name}, which is not installed",
            "Install it: 'make torch' in a checkout of this project for PyTorch, otherwise the extra"
            " 'training' or 'torch' of the package.",
        ) from error
    except Exception as error:  # a user's file may raise anything
        raise InvalidRequestError(
            f"the trainer {name!r} can't be imported: {type(error).__name__}: {error}", "Correct its file."
        ) from error
    options, train = getattr(module, "Options", None), getattr(module, "train", None)
    if not (_has_options(options) and callable(train)):
        raise InvalidRequestError(
            f"{module.__file__} is no trainer: it needs a dataclass Options, each field made by option(…), and a function train",
            "docs/training.md shows one.",
        )
    return Trainer(name, options, train)


def _has_options(options: Any) -> TypeGuard[type]:
    return (
        isinstance(options, type)
        and is_dataclass(options)
        and all("doc" in f.metadata for f in fields(options))
    )


def check_trainer(name: str) -> None:
    """Raises InvalidRequestError unless there is a trainer of that name; imports none."""
    if name not in trainer_names():
        raise InvalidRequestError(f"unknown trainer {name!r}", f"Use one of {', '.join(trainer_names())}.")


def train(request: TrainingRequest) -> TrainedModel:
    """Trains, measures, exports to ONNX and compares; needs no MLflow.

    The same request gives the same ONNX bytes on the same kind of processor and library versions.

    Args:
        request: Trainer and options.

    Returns:
        The export with its metrics, parity, golden and held-out rows, whether or not parity holds.

    Raises:
        InvalidRequestError: See :func:`load_trainer`, or an option is not usable.
        DataError: The data can't be read, or nothing can be learned from it.
        ParityError: The export can't be run with one row or with many.
    """
    return train_with(load_trainer(request.trainer), request)


def train_with(trainer: Trainer, request: TrainingRequest) -> TrainedModel:
    """:func:`train` with a trainer that is imported already."""
    options: Any = from_values(trainer.options, request.options, trainer.name)
    trained = trainer.train(options, Training(request.seed, request.golden_rows))
    params = {"trainer": trainer.name, "seed": request.seed, **asdict(options), **trained.params}
    return replace(trained, params=params)


def option_names(trainer: Trainer) -> list[str]:
    """The names of a trainer's options, in the order of its file."""
    return [f.name for f in fields(trainer.options)]
