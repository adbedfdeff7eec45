"""The command line, ``triton-deploy``: a file for each group of commands, and one that prints results."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import gc
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from ..deploy.deployer import Deployer
from ..errors import DeployError
from ..settings import Settings
from . import deploy_commands, set_up_commands, status_commands, traffic_commands, upkeep_commands
from .command import Commands, apply_flags
from .exit_codes import ExitCode
from .logs import set_up_logging
from .show import show


def program() -> int:
    """Run a command as a process of its own; see main."""
    # With Python's defaults, garbage collection among imported code takes a fifth of a command's time, most
    # of it at the end.
    gc.set_threshold(50_000, 10, 10)
    atexit.register(gc.freeze)
    # A terminal that has no such letter, as with a Latin-1 locale, shows its code instead: no traceback.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code: int = ExitCode.DEFECT
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.DONE
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # The reader of a pipe has gone, as `head` does, or the terminal. Python would say so again when it
        # closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.NO_READER
    if any(thread.daemon for thread in threading.enumerate()):
        # A server that does not answer in time leaves a thread in native code (gRPC, TLS, an import). When
        # Python ends while such a thread runs, the process can end by SIGSEGV, with another exit code.
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
        The exit code; see exit_codes.py.
    """
    parser = build_parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return ExitCode.DONE
    set_up_logging(quiet=options.quiet, verbose=options.verbose)
    apply_flags(options)
    # A rollback has to run when the process is asked to end, so SIGTERM becomes an exception, as Ctrl-C is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.TERMINATED))
    try:
        return show(options.run(options, options.settings()), as_json=options.json)
    except DeployError as error:
        _say_why(options, error.kind, error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        _say_why(options, "interrupted", "Stopped by Ctrl-C.", "Run the command again to have it done.")
        return ExitCode.INTERRUPTED


def _say_why(options: argparse.Namespace, kind: str, message: str, hint: str) -> None:
    """Print the reason of a failure, the hint, and the live versions."""
    serves = list(_still_true(options))
    if options.json:
        print(json.dumps({"error": kind, "message": message, "hint": hint, "serves": serves}))
    rest = [("What to do", hint), *(("Still true", line) for line in serves)]
    if sys.stderr.isatty():
        from .terminal import say_why

        say_why(message, rest)
    else:
        print("\n".join([message, *(f"  {label}: {line}" for label, line in rest)]), file=sys.stderr)


def _still_true(options: argparse.Namespace) -> Iterator[str]:
    """Yield a sentence on the live version of each model that the command named, where it can be read."""
    model = getattr(options, "model", None)
    for name in [model] if model else getattr(options, "models", []):
        with contextlib.suppress(DeployError):
            yield Deployer(Settings.from_env()).what_serves(name)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every command; the reference of the commands is made from it."""
    commands = Commands()
    deploy_commands.add_deploy(commands)
    deploy_commands.add_revert(commands)
    traffic_commands.add_bake(commands)
    traffic_commands.add_canary(commands)
    upkeep_commands.add_reconcile(commands)
    upkeep_commands.add_gc(commands)
    deploy_commands.add_rollback(commands)
    upkeep_commands.add_renumber(commands)
    status_commands.add_status(commands)
    status_commands.add_history(commands)
    set_up_commands.add_doctor(commands)
    set_up_commands.add_init(commands)
    set_up_commands.add_completion(commands)
    return commands.parser
