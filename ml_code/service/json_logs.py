"""A service's log: JSON lines on standard output."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON; ``extra={"fields": …}`` adds members to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()


def set_up_logging(service: str) -> None:
    """Log to standard output as JSON: warnings of every library, and also the events of the service.

    Args:
        service: name of the service's logger.
    """
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[output], force=True)
    logging.getLogger(service).setLevel(logging.INFO)
