"""Texts that others chose, made fit to be shown: names of tensors and files, aliases, reasons, what a server answers.

Such a text must not move a terminal's cursor, begin a line of its own in a log, or turn the direction of what stands beside it.
Nothing of it is lost: what can't be shown is written as Python would write it.
"""

from __future__ import annotations

import logging

_BREAKS = "\r\n\t"


def printable(text: str) -> str:
    """Return a text in one line, with everything escaped that is not seen: control characters, lone surrogates, marks of direction.

    Args:
        text: whatever somebody else wrote. A line break or a tab in it becomes a space: it is where their text goes on.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in _BREAKS:
        return " "
    return character if character.isprintable() else ascii(character)[1:-1]


def excerpt(text: str, characters: int) -> str:
    """Return the beginning of a text, printable; dots say that there is more.

    Args:
        text: whatever somebody else wrote.
        characters: most of it that is shown.
    """
    beginning = printable(text[:characters]).strip()
    return f"{beginning}…" if len(text) > characters else beginning


def for_chat(text: str) -> str:
    """Return a text that a chat program shows as it is: Slack takes ``<!channel>`` and ``<https://…|approve>`` for commands."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class OneLine(logging.Formatter):
    """Formats an event as one line, whatever is in its message; a traceback follows as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is the standard library's)
        """Return the line."""
        record.message = printable(record.message)
        return super().formatMessage(record)
