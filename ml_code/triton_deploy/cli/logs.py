"""What a command logs to standard error: plain words on a terminal, lines with a time elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from ..errors.texts import OneLine

OURS = __name__.partition(".")[0]
"""The package whose log lines are for people; what other libraries log is shown with ``--verbose``."""


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment: a live drawing takes it over while it is on the screen."""

    @property
    def stream(self) -> TextIO:
        """The stream."""
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignore the stream that the constructor sets."""


class _InWords(OneLine):
    """A line without time and level, but for warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        return line if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {line}"


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Log this project's lines to standard error.

    Args:
        quiet: warnings and errors only.
        verbose: also what a terminal shows in another way, and what the libraries log.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler(verbose=verbose)])
    logging.getLogger(OURS).setLevel(logging.WARNING if quiet else logging.INFO)
    # It logs each request at INFO, with its keys' names.
    logging.getLogger("botocore").setLevel(logging.WARNING if verbose else logging.ERROR)


def handler(*, verbose: bool) -> logging.Handler:
    """Return the handler that writes to standard error.

    Args:
        verbose: also what a terminal shows in another way.
    """
    output = _StandardError()
    on_terminal = sys.stderr.isatty() and not verbose
    output.setFormatter(_InWords() if on_terminal else OneLine("%(asctime)s %(levelname)-7s %(message)s"))
    if on_terminal:
        output.addFilter(lambda record: not getattr(record, "told_live", False))
    return output
