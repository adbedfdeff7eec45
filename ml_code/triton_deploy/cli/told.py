"""The result of a command, and the one place that prints it: as JSON or as lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..errors.texts import printable
from ..rules.deployment import Deployment
from .exit_codes import ExitCode


@dataclass(frozen=True)
class Told:
    """The result of a command, for programs and for people.

    Only one of ``value`` and ``lines`` is read, so both may come from one iterator.

    Attributes:
        value: the JSON value: an object, or the objects of an array.
        lines: the lines for people; each is printed before the next is asked for.
        exit_code: the exit code of the process.
    """

    value: Mapping[str, Any] | Iterable[Mapping[str, Any]]
    lines: Iterable[str]
    exit_code: int = ExitCode.DONE

    @classmethod
    def of(cls, record: Deployment | None, text: str, serves: str, exit_code: int = ExitCode.DONE) -> Self:
        """Return the result of a command on one deployment.

        Args:
            record: the deployment; None when it had not begun.
            text: the lines for people.
            serves: a sentence on the live version, for programs.
            exit_code: see above.
        """
        return cls((asdict(record) if record else {}) | {"serves": serves}, text.split("\n"), exit_code)


def show(told: Told, *, as_json: bool) -> int:
    """Print a result, and return its exit code; raises the error of a value or line that can't be made.

    Args:
        told: the result. Names, aliases and reasons in its lines may be any text: each line is made
            printable.
        as_json: print the JSON value, not the lines.
    """
    if as_json:
        print(json.dumps(told.value if isinstance(told.value, Mapping) else list(told.value), indent=2))
    else:
        for line in told.lines:
            print(printable(line))
    return told.exit_code
