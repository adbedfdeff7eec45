"""Settings as a frozen dataclass: each field with its variable, its default and what it means; read from the environment once."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from ..errors import DeployError, Misconfigured
from ..rules.web_address import HIDDEN, shown

MOST_SECONDS = 1e9
"""Thirty years: the system's clocks and timers take no much longer time."""
MOST = 2**62
"""Above every count and size of a machine."""


def setting(variable: str, default: Any, doc: str, *, secret: bool = False, positive: bool = False) -> Any:
    """Return a dataclass field that is read from the environment.

    Args:
        variable: name of the environment variable.
        default: its type says how the text is read: a number of 0 or more, a comma-separated list, text; None for a path.
        doc: what it means, with its unit, as the tables in the documents have it.
        secret: never shown in the object's text, nor in an error.
        positive: a number that can't be 0.
    """
    metadata = {"variable": variable, "doc": doc, "secret": secret, "positive": positive}
    return field(default=default, repr=not secret, metadata=metadata)


def is_address(text: str) -> bool:
    """Whether a text is ``host:port``, without a scheme, a user or a path."""
    host, _, port = text.rpartition(":")
    named = re.fullmatch(r"\[[0-9A-Fa-f:.%]+\]|[^\s/@:\[\]]+", host) is not None
    return named and re.fullmatch("[0-9]{1,5}", port) is not None and 0 < int(port) < 65536


@dataclass(frozen=True)
class Problem:
    """A setting that can't be right.

    Attributes:
        variable: the one that is at fault.
        error: why, and what to do.
        beside: the others that make it wrong.
    """

    variable: str
    error: DeployError
    beside: tuple[str, ...] = ()


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
        settings = cls(**dict(_read(f, environ) for f in fields(cls) if _is_set(f, environ)))  # type: ignore[arg-type]
        settings.check()
        return settings

    @classmethod
    def usable(cls, environ: Mapping[str, str] | None = None) -> tuple[Self, Mapping[str, DeployError]]:
        """Read the settings as far as they can be used: each by itself, and then those that belong together.

        Args:
            environ: variables to read; the process's own by default.

        Returns:
            The settings, with the default for what can't be used; and why not, by variable.
        """
        environ = os.environ if environ is None else environ
        wrong: dict[str, DeployError] = {}
        values: dict[str, Any] = {}
        names = {f.metadata["variable"]: f.name for f in fields(cls)}  # type: ignore[arg-type]
        for f in fields(cls):  # type: ignore[arg-type]
            try:
                values |= [_read(f, environ)] if _is_set(f, environ) else []
            except DeployError as error:
                wrong[f.metadata["variable"]] = error
        while found := _first_new(cls(**values), wrong):
            wrong[found.variable] = found.error
            values.pop(names[found.variable], None)
        return cls(**values), wrong

    def check(self) -> None:
        """Raise Misconfigured when a value can't be right."""
        for problem in self.problems():
            raise problem.error

    def problems(self) -> Iterator[Problem]:
        """Yield what can't be right, each by its variable."""
        yield from ()


def _first_new(settings: FromEnvironment, wrong: Collection[str]) -> Problem | None:
    """Return a problem of variables that are not known to be wrong: a default in their place makes no problem of its own."""
    return next(
        (
            problem
            for problem in settings.problems()
            if not {problem.variable, *problem.beside}.intersection(wrong)
        ),
        None,
    )


def _is_set(of: Any, environ: Mapping[str, str]) -> bool:
    return bool(environ.get(of.metadata["variable"], "").strip())


def _read(of: Any, environ: Mapping[str, str]) -> tuple[str, Any]:
    """Return a field's name and what its variable says; raises Misconfigured."""
    variable = of.metadata["variable"]
    text = environ[variable].strip()
    if (service := kubernetes_address(text)) and not of.metadata["secret"]:
        raise _of_kubernetes(variable, service)
    value = _parse(variable, text, of.default)
    if of.metadata["positive"] and not value:
        raise Misconfigured(
            f"{variable}={text!r} is 0: nothing could be done with that.",
            hint=f"Unset it for the default, {of.default}.",
        )
    return of.name, value


def kubernetes_address(text: str) -> str:
    """Return the address that Kubernetes, or a link of Docker, wrote into a variable; empty for any other text."""
    return text if re.fullmatch(r"(?:tcp|udp|sctp)://[^\s,]*", text) else ""


def _of_kubernetes(variable: str, address: str) -> Misconfigured:
    service = variable.removesuffix("_PORT").lower().replace("_", "-")
    if variable.endswith("_PORT"):
        return Misconfigured(
            f"{variable}={shown(address)} is what Kubernetes tells every pod of a Service called {service!r}, not a setting.",
            hint=f"Set enableServiceLinks: false in the pod, rename the Service, or set {variable} in the pod to what is meant.",
        )
    return Misconfigured(
        f"{variable}={shown(address)} begins with {address.partition('://')[0]}://, as Kubernetes and Docker write addresses of "
        "Services: no setting is written so.",
        hint=f"Set {variable} to what is meant, and leave that scheme out.",
    )


def _parse(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, (int, float)):
        return _number(variable, text, default)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _path(variable, text) if default is None else text


def _number(variable: str, text: str, default: float) -> float:
    number = None
    if text.isascii() and "_" not in text:
        try:
            number = type(default)(text)
        except ValueError:
            number = None
    if number is None or not 0 <= number < float("inf"):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise Misconfigured(
            f"{variable}={_cut(text)!r} is not {kind} of 0 or more.",
            hint=f"Unset it for the default, {default}.",
        )
    if number > (MOST if isinstance(default, int) else MOST_SECONDS):
        raise Misconfigured(
            f"{variable}={_cut(text)} is more than any machine has.",
            hint=f"Unset it for the default, {default}.",
        )
    return number


def _path(variable: str, text: str) -> Path:
    """Return a path of this machine; a URL is none, and only a shell knows what ``~`` is."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    if scheme and scheme[1].lower() == "file":
        raise Misconfigured(
            f"{variable}={shown(text)} is a URL, and a path of this machine is wanted.",
            hint=f"Leave the scheme out: {variable}={re.sub('^file:/+', '/', text, flags=re.IGNORECASE)}",
        )
    if scheme:
        raise Misconfigured(
            f"{variable}={shown(text)} is a URL, and a path of this machine is wanted.",
            hint=_NO_STORE
            if variable == "TRITON_DEPLOY_REPOSITORY"
            else "Copy it to this machine, and write its path.",
        )
    if text.startswith("~") or "\0" in text:
        raise Misconfigured(
            f"{variable}={_cut(text)!r} is no path: only a shell knows what '~' stands for.",
            hint="Write the path from the root on.",
        )
    return Path(text)


_NO_STORE = (
    "Triton may serve from an object store, but a deploy can't be made safe in one: it needs link(2) and rename(2). Use a folder that "
    "the deployer shares with every Triton (a local disk, NFS 4, a ReadWriteMany volume), and start Triton with it."
)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + HIDDEN
