"""The command ``triton-events``: the receiver of MLflow's webhooks, and its registration in MLflow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields

from ..triton_deploy.errors import DeployError
from ..triton_deploy.settings import Settings, variables
from ..triton_deploy.settings.parser import Parser
from ..triton_deploy.settings.version import installed
from .settings import EventSettings

SERVE = "  TRITON_EVENTS_ALLOW=best_model@A triton-events serve"
REGISTER = "  TRITON_EVENTS_ALLOW=best_model@A triton-events register"
STOP_TIMEOUT_S = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0, or the code of a DeployError (3 for a wrong setting, 5 for a silent server).
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        variables.check([EventSettings, Settings], changes=True)
        code: int = options.run(EventSettings.from_env())
    except DeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return code


def _serve(settings: EventSettings) -> int:
    from ..service.http_protocol import LimitedProtocol, allow_connections
    from ..service.uvicorn_server import serve
    from .logs import set_up_logging
    from .receiver import create_app

    set_up_logging()
    allow_connections(LimitedProtocol.limits.connections)
    app = create_app(settings)
    return serve(app, host=settings.host, port=settings.port, stop_timeout_s=STOP_TIMEOUT_S)


def _register(settings: EventSettings) -> int:
    from ..triton_deploy.errors import Misconfigured
    from .webhook import Webhooks, address

    if not settings.url:
        raise Misconfigured(
            "TRITON_EVENTS_URL is not set.", hint="Set it to where MLflow reaches the receiver."
        )
    webhooks = Webhooks(Settings.from_env())
    webhook = webhooks.ensure(settings.url, settings.secrets[0])
    print(f"MLflow calls {address(settings.url)} when an alias is set (webhook {webhook}).")
    webhooks.test(webhook)
    print("It has just done so, for a test, and the receiver took it.")
    return 0


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {f.metadata['variable']:32} {f.metadata['doc']}" for f in fields(EventSettings)]
    parser = Parser(
        prog="triton-events",
        description="Have Airflow deploy the version that an alias is set to in MLflow.",
        epilog=f"examples:\n{SERVE}\n{REGISTER}\n\nsettings, from the environment:\n" + "\n".join(lines),
    )
    parser.add_argument("--version", action="version", version=f"triton-events {installed()}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    serve = commands.add_parser(
        "serve",
        help="take MLflow's webhooks; SIGTERM stops it",
        description="Take MLflow's webhooks, and have Airflow deploy. SIGTERM stops it.",
        epilog=f"example:\n{SERVE}",
    )
    serve.set_defaults(run=_serve)
    register = commands.add_parser(
        "register",
        help="create or correct the webhook in MLflow, and send a test; the receiver must run",
        description="Create or correct the webhook in MLflow, and send a test. The receiver must run.",
        epilog=f"example:\n{REGISTER}",
    )
    register.set_defaults(run=_register)
    return parser


if __name__ == "__main__":
    sys.exit(main())
