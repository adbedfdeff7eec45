"""The one place that prints a result: as JSON, as lines, or drawn on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from ..errors.texts import printable
from .told import Told


def show(told: Told, *, as_json: bool) -> int:
    """Print a result, and return its exit code; raises the error of a value or line that can't be made.

    Args:
        told: the result. Names, aliases and reasons in its lines may be any text: each line is made
            printable.
        as_json: print the JSON value, not the lines.
    """
    if as_json:
        print(json.dumps(told.value if isinstance(told.value, Mapping) else list(told.value), indent=2))
    elif sys.stdout.isatty():
        from .terminal import draw

        draw(told.lines if told.drawing is None else told.drawing)
    else:
        for line in told.lines:
            print(printable(line))
    return told.exit_code
