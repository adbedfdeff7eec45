"""Adds commands to the parser of ``triton-deploy``, and the options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from ..settings import Settings, variables
from ..settings.parser import Parser
from ..settings.version import installed
from .exit_codes import EXIT_CODES
from .told import Told

Run = Callable[[argparse.Namespace, Settings], Told]
"""Does a command: takes the parsed options and the settings, and returns the result; raises DeployError."""

FLAGS = {
    "--repository": ("TRITON_DEPLOY_REPOSITORY", "FOLDER", "folder of the model repository"),
    "--tracking-uri": ("MLFLOW_TRACKING_URI", "URL", "address of MLflow"),
    "--triton": ("TRITON_DEPLOY_GRPC_URLS", "HOST:PORT,…", "gRPC ports of the Tritons that serve"),
}
"""Options that stand for a setting, with the variable of that setting; an option wins over its variable."""


def settings_to_change() -> Settings:
    """Read the settings of a command that changes something. A misspelt variable is an error."""
    variables.check([Settings], changes=True)
    return Settings.from_env()


def settings_to_look() -> Settings:
    """Read the settings of a command that changes nothing; a misspelt variable is a warning."""
    variables.check([Settings], changes=False)
    return Settings.from_env()


def apply_flags(options: argparse.Namespace) -> None:
    """Set the variables of the options that stand for a setting, for this process and its children.

    Args:
        options: the parsed options.
    """
    for option, (variable, _, _) in FLAGS.items():
        value = getattr(options, option.lstrip("-").replace("-", "_"), None)
        if value is not None:
            os.environ[variable] = value


class Commands:
    """The parser of the command line, to which commands are added one by one."""

    def __init__(self) -> None:
        self.parser = Parser(
            prog="triton-deploy",
            description="Make the version that an MLflow alias names the one that Triton serves, or change nothing.",
            epilog="examples:\n"
            "  triton-deploy doctor\n"
            "  triton-deploy deploy best_model --alias A\n"
            "  triton-deploy revert best_model\n"
            "  triton-deploy COMMAND --help\n\n"
            f"{EXIT_CODES}\n"
            "Settings come from the environment. 'triton-deploy doctor' checks them.",
        )
        self.parser.add_argument("--version", action="version", version=f"triton-deploy {installed()}")
        self._common = Parser(add_help=False)
        output = self._common.add_argument_group("output")
        output.add_argument("--json", action="store_true", help="print the result as JSON")
        output.add_argument("--quiet", action="store_true", help="log warnings and errors only")
        output.add_argument(
            "--verbose", "-v", action="store_true", help="log every step, and the lines of libraries"
        )
        flags = self._common.add_argument_group("settings")
        for option, (variable, metavar, text) in FLAGS.items():
            flags.add_argument(option, metavar=metavar, help=f"{text} (default: {variable})")
        self._added = self.parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(
        self,
        name: str,
        run: Run,
        text: str,
        settings: Callable[[], Settings] = settings_to_change,
        *,
        examples: Sequence[str],
    ) -> argparse.ArgumentParser:
        """Add a command, and return its parser for its own options.

        Args:
            name: the command.
            run: does it.
            text: its help.
            settings: reads its settings.
            examples: what follows ``triton-deploy`` in the examples of its help.
        """
        added = self._added.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[self._common],
            epilog="\n".join(["examples:", *(f"  triton-deploy {example}" for example in examples)]),
        )
        added.set_defaults(run=run, settings=settings, usage_error=added.error)
        return added


def add_dry_run(command: argparse.ArgumentParser) -> None:
    """Add ``--dry-run``."""
    command.add_argument("--dry-run", action="store_true", help="print the plan, and change nothing")


def add_model(command: argparse.ArgumentParser) -> None:
    """Add a model's name."""
    command.add_argument("model", metavar="MODEL", help="model name, in MLflow and in Triton")


def add_models(command: argparse.ArgumentParser) -> None:
    """Add the names of any number of models."""
    command.add_argument("models", metavar="MODEL", nargs="*", help="models (default: all)")


def add_model_and_alias(command: argparse.ArgumentParser) -> None:
    """Add a model's name and an alias."""
    add_model(command)
    command.add_argument("--alias", default="A", help="MLflow alias of the version (default: %(default)s)")
