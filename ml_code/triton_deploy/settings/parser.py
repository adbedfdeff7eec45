"""The parser of every command of this project: its errors name the word that may be meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from .help_text import Help

PARSER = "parser_of_the_command"
"""Name of the parsed option that holds the parser of the command that was given."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the command or option that may be meant.

    Args:
        formatter_class: formats the help.
        **options: see argparse.ArgumentParser.
    """

    def __init__(self, *, formatter_class: type[argparse.HelpFormatter] = Help, **options: Any) -> None:
        super().__init__(formatter_class=formatter_class, **options)
        # A command's parser overwrites it: an unknown option is an error of the command.
        self.set_defaults(**{PARSER: self})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the parsed options; exits with code 2 and the command's own usage for an unknown one."""
        options, unknown = self.parse_known_args(args, namespace)
        parser = options.__dict__.pop(PARSER)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit with code 2."""
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        if wrong is None:
            wrong = re.search(r"unrecognized arguments: .*?(?<!\S)(-[^\s=]*)", message)
            known: Sequence[str] = list(self._option_string_actions)
        else:
            known = re.findall(r"[^\s',()]+", message.partition("(choose from ")[2])
        near = get_close_matches(wrong[1], known, n=1) if wrong else []
        return f". Did you mean {near[0]}?" if near else ""
