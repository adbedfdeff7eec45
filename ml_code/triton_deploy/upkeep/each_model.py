"""One run for each of several models, of which a failed one does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..errors import DeployError

log = logging.getLogger(__name__)

T = TypeVar("T")


def each_model(
    models: Iterable[str],
    run: Callable[[str], T],
    failed: Callable[[str, str], T],
    *,
    undone: str,
    fatal: tuple[type[DeployError], ...] = (),
) -> Iterator[T]:
    """Run a function for one model after the other, and turn an error into a result of its model.

    Args:
        models: their names.
        run: makes the result of a model.
        failed: makes the result of a model whose run raised, from the model's name and a sentence with the
            error.
        undone: the beginning of that sentence, such as "not reconciled".
        fatal: errors that concern every model; they are raised.

    Yields:
        The result of each model. The traceback of an error that is not a ``DeployError`` is logged: it is a
        defect.
    """
    for model in models:
        try:
            result = run(model)
        except fatal:
            raise
        except DeployError as error:
            log.error("%s: %s", model, undone)
            result = failed(model, f"{undone}: {error}")
        except Exception as error:
            log.exception("%s: %s", model, undone)
            result = failed(model, f"{undone}: {type(error).__name__}: {error}")
        yield result
