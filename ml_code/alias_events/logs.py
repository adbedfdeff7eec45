"""JSON lines on standard output, one for each delivery and each thing that went wrong."""

from __future__ import annotations

import logging

from ..service import json_logs

log = logging.getLogger("ml_code.alias_events")


def set_up_logging() -> None:
    """Send the events of every library to standard output as JSON."""
    json_logs.set_up_logging(log.name)
    # It tells of every try; what comes of them is told here.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
