"""What the libraries that speak HTTP log: their addresses hold signatures and passwords, at every level that a process may log at."""

from __future__ import annotations

import logging
import re

_LIBRARIES = ("urllib3", "requests", "botocore", "boto3", "s3transfer")


class _Redacted(logging.Filter):
    """Keeps errors, without what follows a '?' or stands before an '@' in an address, and without a traceback; drops the rest.

    What a warning would be about is said in our own words, with what to do: that something is repeated, or that a header is odd.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return False
        record.msg, record.args = redacted(record.getMessage()), ()
        record.exc_info = record.exc_text = None
        return True


_REDACTED = _Redacted()


def redacted(text: str) -> str:
    """Return a text whose addresses have no user, password and query."""
    return re.sub(r"\?[^\s'\"<>]+", "?…", re.sub(r"//[^/\s@]*@", "//", text))


def quieten() -> None:
    """Filter every logger that those libraries have made so far.

    A logger's level alone would not do: whoever sets another one later, or the level of one module, would see signatures.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            # A filter that is there already is not added again.
            logging.getLogger(name).addFilter(_REDACTED)
