"""Formats the ``--help`` of every command of this project, for the width of the terminal."""

from __future__ import annotations

import argparse
import re
import textwrap

CONTINUED = 4
"""Columns by which the second line of an example is indented."""


class Help(argparse.HelpFormatter):
    """Wraps descriptions; keeps the lines of examples, exit codes and settings, and indents the next ones."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument; the standard library forgets that the names of commands are indented."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(wrapped(line, width) for line in text.split("\n"))


def wrapped(line: str, width: int) -> str:
    """Return a line wrapped: what goes on begins where the text does that a code or a name introduces.

    Args:
        line: the line; it is indented by two columns if it belongs to a heading.
        width: columns.
    """
    introduced = re.match(r"  \S.*? {2,}(?=\S)", line)
    if line.startswith("  ") and not introduced:
        return _continued(line, width)
    hanging = len(introduced[0]) if introduced else 0
    if hanging > width // 2:
        hanging = CONTINUED
    return "\n".join(_lines(line, width, hanging))


def _continued(example: str, width: int) -> str:
    """Return an example wrapped as a shell reads it: its lines can be copied together."""
    whole = re.sub('"[^"]*"', lambda quoted: quoted[0].replace(" ", "\0"), example)
    return " \\\n".join(_lines(whole, width - 2, CONTINUED)).replace("\0", " ")


def _lines(text: str, width: int, hanging: int) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=" " * hanging, break_on_hyphens=False, break_long_words=False
    )
