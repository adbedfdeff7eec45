"""Options of a trainer: fields of a frozen dataclass, on the command line, and parameters in MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, field, fields
from typing import Any, TypeVar

from ml_code.training.errors import InvalidRequestError

Options = TypeVar("Options")

_KINDS = {str: "text", int: "a whole number", float: "a number"}


def option(
    default: str | int | float,
    doc: str,
    *,
    choices: Sequence[str] = (),
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float = -math.inf,
) -> Any:
    """Returns a dataclass field that the user can set.

    Args:
        default: Its type is the option's: text, a whole number or a number.
        doc: Its meaning, with its unit, as ``--help`` shows it.
        choices: All allowed texts; empty allows any.
        at_least: Smallest allowed number.
        at_most: Largest allowed number.
        above: The option has to exceed this number.
    """
    limits = {"at_least": at_least, "at_most": at_most, "above": above}
    return field(default=default, metadata={"doc": doc, "choices": tuple(choices), **limits})


def from_values(options: type[Options], values: Mapping[str, Any], trainer: str) -> Options:
    """Makes a trainer's options from the user's values; all other options have their defaults.

    Args:
        options: A dataclass with fields made by :func:`option`.
        values: Values by the name of the option; numbers may be text.
        trainer: Its name, for messages.

    Raises:
        InvalidRequestError: The trainer has no such option, or a value is of the wrong kind or outside the
            limits.
    """
    known: dict[str, Field[Any]] = {f.name: f for f in fields(options)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise InvalidRequestError(
                f"the trainer {trainer!r} has no option {name!r}", f"It has {', '.join(known) or 'none'}."
            )
    return options(**{name: _checked(known[name], value) for name, value in values.items()})


def _checked(f: Field[Any], value: Any) -> str | int | float:
    parsed = _parsed(type(f.default), value)
    if parsed is None:
        raise InvalidRequestError(
            f"{f.name} {value!r} is not {_KINDS[type(f.default)]}", f"The default is {f.default!r}."
        )
    if isinstance(parsed, str):
        if f.metadata["choices"] and parsed not in f.metadata["choices"]:
            raise InvalidRequestError(
                f"{f.name} {parsed!r} is unknown", f"Use one of {', '.join(f.metadata['choices'])}."
            )
    elif not (f.metadata["at_least"] <= parsed <= f.metadata["at_most"] and parsed > f.metadata["above"]):
        raise InvalidRequestError(f"{f.name} {parsed} is out of range", f"Use a value {_range(f)}.")
    return parsed


def _parsed(kind: type, value: Any) -> str | int | float | None:
    if kind is str or isinstance(value, (bool, type(None))):
        return value if kind is str and isinstance(value, str) else None
    try:
        number = float(value) if kind is float or isinstance(value, float) else int(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        return None
    return kind(number)  # type: ignore[no-any-return]


def _range(f: Field[Any]) -> str:
    words = {"at_least": "of at least", "at_most": "of at most", "above": "above"}
    return " and ".join(
        f"{word} {f.metadata[limit]}" for limit, word in words.items() if math.isfinite(f.metadata[limit])
    )
