"""Runs an ASGI application under uvicorn, with the protocol and the logs of our services."""

from __future__ import annotations

import signal
import sys
from typing import Any

import uvicorn

from .http_protocol import LimitedProtocol


def serve(application: Any, *, stop_timeout_s: float, **options: Any) -> int:
    """Serve an application until SIGTERM or SIGINT.

    Args:
        application: the ASGI application, or the import path of its factory.
        stop_timeout_s: longest wait for requests in flight at the stop, seconds.
        options: further options of ``uvicorn.run``, as host and port.

    Returns:
        The exit code: 0 after a stop, uvicorn's when it could not start.
    """
    # After an orderly stop uvicorn raises the signal again. A stop is no failure, so exit with 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        uvicorn.run(
            application,
            loop="uvloop",
            http=LimitedProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=int(stop_timeout_s),
            **options,
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        return 0
    return 0
