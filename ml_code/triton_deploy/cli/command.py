"""Adds commands to the parser of ``triton-deploy``, and the options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..settings import Settings, variables
from .exit_codes import EXIT_CODES
from .told import Told

Run = Callable[[argparse.Namespace, Settings], Told]
"""Does a command: takes the parsed options and the settings, and returns the result; raises DeployError."""


def settings_to_change() -> Settings:
    """Read the settings of a command that changes something. A misspelt variable is an error."""
    variables.check([Settings], changes=True)
    return Settings.from_env()


def settings_to_look() -> Settings:
    """Read the settings of a command that changes nothing; a misspelt variable is a warning."""
    variables.check([Settings], changes=False)
    return Settings.from_env()


class Commands:
    """The parser of the command line, to which commands are added one by one."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(
            prog="triton-deploy",
            description="Make what an MLflow alias names what Triton serves, or change nothing.",
            epilog=EXIT_CODES
            + "\nSettings come from the environment; docs/reference/settings.md lists them, and doctor checks them.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._common = argparse.ArgumentParser(add_help=False)
        self._common.add_argument("--json", action="store_true", help="print the result as JSON")
        self._common.add_argument("--quiet", action="store_true", help="log warnings and errors only")
        self._added = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, run: Run, text: str, settings: Callable[[], Settings] = settings_to_change
    ) -> argparse.ArgumentParser:
        """Add a command, and return its parser for its own options.

        Args:
            name: the command.
            run: does it.
            text: its help.
            settings: reads its settings.
        """
        added = self._added.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[self._common]
        )
        added.set_defaults(run=run, settings=settings, usage_error=added.error)
        return added


def add_dry_run(command: argparse.ArgumentParser) -> None:
    """Add ``--dry-run``."""
    command.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")


def add_models(command: argparse.ArgumentParser) -> None:
    """Add the names of any number of models."""
    command.add_argument("models", metavar="MODEL", nargs="*", help="models (default: all)")


def add_model_and_alias(command: argparse.ArgumentParser) -> None:
    """Add a model's name and an alias."""
    command.add_argument("model", metavar="MODEL", help="model name, in MLflow and in Triton")
    command.add_argument("--alias", default="A", help="MLflow alias of the version (default: %(default)s)")
