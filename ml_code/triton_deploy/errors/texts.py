"""Foreign texts, made safe to show: names of tensors and files, aliases, reasons, answers of servers.

Such a text must not move a terminal's cursor, begin a line of its own in a log, or turn the direction of
the text beside it. Nothing is lost: a character that can't be shown is written as Python's escape.
"""

from __future__ import annotations

import logging

_BREAKS = "\r\n\t"


def printable(text: str) -> str:
    """Return a text in one line, with invisible characters escaped.

    These are control characters, lone surrogates and marks of direction.

    Args:
        text: any text. A line break or a tab in it becomes a space.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in _BREAKS:
        return " "
    return character if character.isprintable() else ascii(character)[1:-1]


def excerpt(text: str, characters: int) -> str:
    """Return the beginning of a text, printable; an ellipsis follows when there is more.

    Args:
        text: any text.
        characters: most characters that are shown.
    """
    beginning = printable(text[:characters]).strip()
    return f"{beginning}…" if len(text) > characters else beginning


def for_chat(text: str) -> str:
    """Return a text escaped for chat: Slack takes ``<!channel>`` and ``<https://…|approve>`` for commands."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class OneLine(logging.Formatter):
    """Formats a log event as one line, whatever its message contains; a traceback follows unchanged."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is the standard library's)
        """Return the line."""
        record.message = printable(record.message)
        return super().formatMessage(record)
