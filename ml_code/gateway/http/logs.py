"""The gateway's log: events at once, and the lines of requests together, five times a second."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from datetime import UTC, datetime

import orjson

from .exchange import Exchange

_FLUSH_S = 0.2
_FLUSH_LINES = 500

log = logging.getLogger("ml_code.gateway")


class AccessLog:
    """Logs a JSON line for each request.

    Lines are written together, because a system call for each would cost more than the line.

    Args:
        which: ``all``, ``errors`` or ``off``.
    """

    def __init__(self, which: str) -> None:
        self._off = which == "off"
        self._from_status = 400 if which == "errors" else 0
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, exchange: Exchange, duration_s: float) -> None:
        """Log an ended exchange; without a status, its client has given up."""
        if self._off or 0 < exchange.status < self._from_status:
            return
        entry = {
            "at": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
            "level": "info",
            "event": "request",
            "request_id": exchange.request_id.decode(),
            "method": exchange.scope["method"],
            "path": exchange.scope["path"][:300],
            "status": exchange.status,
            "model": exchange.model,
            "version": exchange.version,
            "outcome": exchange.outcome,
            "ms": round(duration_s * 1000, 3),
        }
        if exchange.why:
            entry["why"] = exchange.why
        self._lines.append(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write the collected lines."""
        lines, self._lines = self._lines, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if lines:
            sys.stdout.buffer.write(b"".join(lines))
            sys.stdout.buffer.flush()
