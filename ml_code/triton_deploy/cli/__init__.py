"""The command line: ``triton-deploy``. What the commands do is in ``commands``."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from ..deploy import canary_decisions
from ..deploy.deployer import Deployer
from ..errors import DeployError
from ..errors.texts import OneLine
from ..settings import Settings, variables
from . import canary_command, commands

EXIT_CODES = """exit codes:
  0  done; nothing to do; status: Triton serves what is live; deployment committed
  1  unexpected error, a defect
  2  wrong usage
  3  bad name or setting, model, alias or deployment unknown, access denied: correct it
  4  the model is refused, or fails its checks, its canary or its bake: repair the model
  5  MLflow, S3, Triton or the disk failed: try again when it is back
  6  another deploy of the model is under way, or came first; somebody aborted the canary; the deploy id is another deployment's
  7  status: a Triton does not serve what is live; reconcile, gc, bake: something is left for a person; deploy: nobody could judge the canary, and it was rolled back; doctor: something failed
  8  status: the deployment was rolled back
  9  status: the deployment has not ended
  130, 143  stopped by Ctrl-C or by SIGTERM, after a deploy under way was rolled back
"""


def program() -> int:
    """Run a command as a process of its own; see main."""
    # Of the seconds that a command takes, a fifth would go into looking for garbage among imported code, most of it at the end.
    gc.set_threshold(50_000, 10, 10)
    atexit.register(gc.freeze)
    code = 1
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    if any(thread.daemon for thread in threading.enumerate()):
        # A server that does not answer in time leaves a thread behind in native code (gRPC, TLS, an import), and Python that
        # ends below such a thread can end by SIGSEGV: the exit code would be another one.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; the process's own by default.

    Returns:
        The exit code; see EXIT_CODES.
    """
    options = _parser().parse_args(argv)
    output = logging.StreamHandler()
    output.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.WARNING if options.quiet else logging.INFO, handlers=[output])
    logging.getLogger("botocore").setLevel(logging.WARNING)
    # A rollback has to run when the process is asked to end: make SIGTERM an exception, as Ctrl-C is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code: int = options.run(options, options.settings())
        return code
    except DeployError as error:
        _say_why(options, error.kind, error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        _say_why(options, "interrupted", "Stopped by Ctrl-C.", "Run the command again to have it done.")
        return 128 + signal.SIGINT


def _say_why(options: argparse.Namespace, kind: str, message: str, hint: str) -> None:
    """Say why a command did not do what it was asked to, what to do, and what serves."""
    serves = list(_still_true(options))
    if options.json:
        print(json.dumps({"error": kind, "message": message, "hint": hint, "serves": serves}))
    lines = [message, f"  What to do: {hint}", *(f"  Still true: {line}" for line in serves)]
    print("\n".join(lines), file=sys.stderr)


def _still_true(options: argparse.Namespace) -> Iterator[str]:
    """Say what serves after an error, as far as it can be said."""
    model = getattr(options, "model", None)
    for name in [model] if model else getattr(options, "models", []):
        with contextlib.suppress(DeployError):
            yield Deployer(Settings.from_env()).what_serves(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="triton-deploy",
        description="Make what an MLflow alias names what Triton serves, or change nothing.",
        epilog=EXIT_CODES + "\nSettings come from the environment; see the README.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common]
        )
        sub.set_defaults(run=run, settings=_settings_to_change, usage_error=sub.error)
        return sub

    def changes_nothing(sub: argparse.ArgumentParser) -> None:
        sub.set_defaults(settings=_settings_to_look)

    def dry_run(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")

    deploy = command(
        "deploy", commands.deploy, "deploy the version that an alias names; roll back if anything fails"
    )
    _add_deploy_options(deploy)
    deploy.add_argument("--reason", default="", help="why, for the history")
    dry_run(deploy)

    revert = command("revert", commands.revert, "make a version live again that was live before")
    _revert_arguments(revert)
    dry_run(revert)

    bake = command("bake", commands.bake, "watch a release on live traffic, and take it back if it is bad")
    _bake_arguments(bake)
    dry_run(bake)

    _canary_arguments(
        command(
            "canary",
            canary_command.canary,
            "look at the canary of a deploy that is under way, or say what is to become of it",
        )
    )

    reconcile = command(
        "reconcile", commands.reconcile, "make Triton and the derived files agree with what was committed"
    )
    reconcile.add_argument("models", metavar="MODEL", nargs="*", help="models (default: all)")
    reconcile.add_argument(
        "--deep", action="store_true", help="read every byte of the loaded versions and compare"
    )
    dry_run(reconcile)

    gc = command(
        "gc", commands.gc, "remove what the retention lets go: old versions, quarantined directories, records"
    )
    gc.add_argument("models", metavar="MODEL", nargs="*", help="models (default: all)")
    dry_run(gc)

    rollback = command(
        "rollback",
        commands.rollback,
        "undo a deployment that is not committed, or finish one that is past its decision",
    )
    rollback.add_argument("model", metavar="MODEL")
    rollback.add_argument("--deploy-id", required=True, help="the deployment")
    dry_run(rollback)

    renumber = command(
        "renumber",
        commands.renumber,
        "after a model was deleted in MLflow and made anew: register its version again, under a number that is free",
    )
    _add_model_and_alias(renumber)
    dry_run(renumber)

    status = command(
        "status",
        commands.status,
        "show what is live, what each Triton serves, what is under way and in quarantine",
    )
    changes_nothing(status)
    status.add_argument("model", metavar="MODEL", nargs="?", help="one model (default: all)")
    status.add_argument(
        "--deploy-id", help="show one deployment of the model; the exit code says how it ended"
    )

    history = command("history", commands.history, "show the releases of a model, newest first")
    changes_nothing(history)
    history.add_argument("model", metavar="MODEL")
    history.add_argument("--limit", type=int, default=20, help="how many releases (default: %(default)s)")

    doctor = command(
        "doctor", commands.doctor, "check the set-up: every part with its result, the cause and what to do"
    )
    # Settings that can't be used are a finding, not the end.
    doctor.set_defaults(settings=Settings)

    init = command(
        "init",
        commands.init,
        "make what has to be there once: repository folder, bucket, two experiments in MLflow",
    )
    _init_arguments(init)
    dry_run(init)
    return parser


def _settings_to_change() -> Settings:
    """Read the settings for a command that changes something: a misspelt one would change it otherwise than was meant."""
    variables.check([Settings], changes=True)
    return Settings.from_env()


def _settings_to_look() -> Settings:
    variables.check([Settings], changes=False)
    return Settings.from_env()


def _revert_arguments(revert: argparse.ArgumentParser) -> None:
    revert.add_argument("model", metavar="MODEL")
    revert.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="version to go back to (default: the one before the live one)",
    )
    revert.add_argument("--reason", default="", help="why, for the history")
    revert.add_argument(
        "--unverified",
        action="store_true",
        help="do not compare its files with what was released; for an emergency, needs --reason",
    )
    revert.add_argument("--deploy-id", help="id of this deployment (default: a new one)")


def _bake_arguments(bake: argparse.ArgumentParser) -> None:
    bake.add_argument("model", metavar="MODEL")
    bake.add_argument(
        "--bake-minutes",
        "--minutes",
        dest="minutes",
        type=float,
        metavar="MINUTES",
        help="how long, since its commit (default: TRITON_DEPLOY_BAKE_MINUTES)",
    )
    bake.add_argument("--generation", type=int, help="the release (default: the live one)")


def _canary_arguments(canary: argparse.ArgumentParser) -> None:
    canary.add_argument(
        "decision",
        choices=canary_decisions.CHOICES,
        metavar="DECISION",
        help="status: only look, and show the testers' key; pause: its step does not end by itself; resume: take that back; promote: end "
        "its step now (the next one begins, or the candidate is committed); abort: roll it back, and blame nobody",
    )
    canary.add_argument("model", metavar="MODEL")
    canary.add_argument("--deploy-id", help="the deployment that is meant (default: the one under way)")
    canary.add_argument("--reason", default="", help="why, for the record")


def _init_arguments(init: argparse.ArgumentParser) -> None:
    init.add_argument("--bucket", default="", help="bucket for artifacts (default: mlflow; in AWS none)")
    init.add_argument(
        "--experiment",
        default="",
        help="experiment behind MLflow's proxy; with '-direct' added, the one in the bucket (default: TRITON_DEPLOY_MODEL)",
    )


def _add_model_and_alias(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="model name, in MLflow and in Triton")
    sub.add_argument("--alias", default="A", help="MLflow alias of the version (default: %(default)s)")


def _add_deploy_options(deploy: argparse.ArgumentParser) -> None:
    _add_model_and_alias(deploy)
    deploy.add_argument("--deploy-id", help="id of this deployment (default: a new one)")
    deploy.add_argument(
        "--allow-schema-change",
        action="store_true",
        help="accept inputs and outputs that break clients of the live version",
    )
    deploy.add_argument("--force", action="store_true", help="accept an artifact that failed before")
    deploy.add_argument(
        "--canary",
        default="",
        metavar="PERCENT,…",
        help="shares of the clients' requests that it answers before it is committed, such as 5,25,50; 'pause' after one waits for a "
        "person there (5,pause,50), and in front of all lets testers alone have it",
    )
    deploy.add_argument(
        "--shadow-percent",
        "--shadow",
        dest="shadow",
        type=int,
        default=0,
        metavar="PERCENT",
        help="share of the requests that are mirrored to it before",
    )
    deploy.add_argument(
        "--canary-minutes",
        type=float,
        default=10,
        metavar="MINUTES",
        help="how long each of those steps is watched at least (default: %(default)s)",
    )
