"""The command ``triton-gateway``: the gateway under uvicorn."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields

from ..triton_deploy.errors import DeployError
from ..triton_deploy.settings import Settings, variables
from ..triton_deploy.settings.parser import Parser
from ..triton_deploy.settings.version import installed
from .settings import GatewaySettings

EXAMPLES = "example:\n  TRITON_DEPLOY_REPOSITORY=/models GATEWAY_TRITON_URLS=triton-0:8000,triton-1:8000 triton-gateway"
PUBLISHED_BY_COMPOSE = ("GATEWAY_1_PORT", "GATEWAY_2_PORT")
"""Variables of docker-compose.yml that a user may have exported; the gateway does not read them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 after a stop, 1 when the gateway could not start, 3 for a wrong setting.
    """
    _parser().parse_args(argv)
    variables.check([GatewaySettings, Settings], changes=False, also=PUBLISHED_BY_COMPOSE)
    try:
        settings = GatewaySettings.from_env()
    except DeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if settings.workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            return _run(settings)
    return _run(settings)


def _run(settings: GatewaySettings) -> int:
    from ..service.json_logs import set_up_logging
    from ..service.uvicorn_server import serve
    from .http.logs import log

    set_up_logging(log.name)
    return serve(
        "ml_code.gateway.cli:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        date_header=False,
        timeout_keep_alive=int(settings.keep_alive_s),
        stop_timeout_s=settings.stop_timeout_s,
    )


def application() -> object:
    """Return the ASGI application of one worker, with settings from the environment."""
    from ..service.http_protocol import LimitedProtocol, Limits, allow_connections
    from ..service.json_logs import set_up_logging
    from .front.app import create_app
    from .http.logs import log

    set_up_logging(log.name)
    settings = GatewaySettings.from_env()
    allow_connections(settings.max_connections)
    LimitedProtocol.limits = Limits(
        head_bytes=settings.max_head_bytes,
        url_bytes=settings.max_url_bytes,
        head_timeout_s=settings.head_timeout_s,
        connections=settings.max_connections,
    )
    return create_app(settings)


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {f.metadata['variable']:28} {f.metadata['doc']}" for f in fields(GatewaySettings)]
    parser = Parser(
        prog="triton-gateway",
        description="Serve the committed release to applications, and say which one it is. SIGTERM stops it after the requests in flight.",
        epilog=EXAMPLES + "\n\nsettings, from the environment:\n" + "\n".join(lines),
    )
    parser.add_argument("--version", action="version", version=f"triton-gateway {installed()}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
