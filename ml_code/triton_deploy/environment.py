"""Settings as a frozen dataclass: each field with its variable, its default and what it means; read from the environment once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Self

from .errors import Misconfigured


def setting(variable: str, default: Any, doc: str, *, secret: bool = False) -> Any:
    """Return a dataclass field that is read from the environment.

    Args:
        variable: name of the environment variable.
        default: its type says how the text is read: a number of 0 or more, a comma-separated list, text; None for a path.
        doc: what it means, with its unit, as the tables in the documents have it.
        secret: never shown in the object's text.
    """
    return field(default=default, repr=not secret, metadata={"variable": variable, "doc": doc})


def is_address(text: str) -> bool:
    """Whether a text is ``host:port``, without a scheme or a path."""
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in text and port.isascii() and port.isdigit()


class FromEnvironment:
    """Base of a frozen dataclass whose fields were made by ``setting``."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings.

        Args:
            environ: variables to read; the process's own by default.

        Raises:
            Misconfigured: a value can't be parsed or can't be right; the text names the variable.
        """
        environ = os.environ if environ is None else environ
        values = {}
        for f in fields(cls):  # type: ignore[arg-type]
            text = environ.get(f.metadata["variable"], "").strip()
            if text:
                values[f.name] = _parse(f.metadata["variable"], text, f.default)
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise Misconfigured when a value can't be right."""


def _parse(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, (int, float)):
        try:
            number = type(default)(text)
        except ValueError:
            number = None
        if number is None or not 0 <= number < float("inf"):
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise Misconfigured(
                f"{variable}={text!r} is not {kind} of 0 or more.",
                hint=f"Unset it for the default, {default}.",
            )
        return number
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return Path(text) if default is None else text
