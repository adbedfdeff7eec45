"""JSON lines on standard output: one for each delivery, and one for each error."""

from __future__ import annotations

import logging

from ..service import json_logs

log = logging.getLogger("ml_code.alias_events")


def set_up_logging() -> None:
    """Write the log records of all libraries to standard output as JSON."""
    json_logs.set_up_logging(log.name)
    # urllib3 logs every try; the receiver logs the outcome.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
