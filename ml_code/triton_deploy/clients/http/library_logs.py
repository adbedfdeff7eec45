"""Filters the logs of the HTTP libraries, whose addresses hold signatures and passwords, at every level."""

from __future__ import annotations

import logging
import re

_LIBRARIES = ("urllib3", "requests", "botocore", "boto3", "s3transfer")


class _Redacted(logging.Filter):
    """Drops all but errors; removes their tracebacks, and queries, users and passwords of addresses.

    Nothing is lost with the warnings: the library reports repeats and malformed headers by its own errors.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return False
        record.msg, record.args = redacted(record.getMessage()), ()
        record.exc_info = record.exc_text = None
        return True


_REDACTED = _Redacted()


def redacted(text: str) -> str:
    """Return a text without the user, password and query of its addresses."""
    return re.sub(r"\?[^\s'\"<>]+", "?…", re.sub(r"//[^/\s@]*@", "//", text))


def quieten() -> None:
    """Filter every logger that the HTTP libraries have made so far.

    Setting levels would not suffice: a process that later sets another level, or that of one module, would
    log signatures.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            # logging does not add the same filter twice.
            logging.getLogger(name).addFilter(_REDACTED)
