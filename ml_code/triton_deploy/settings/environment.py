"""Settings as frozen dataclasses: a field declares variable, default, meaning and check of one setting."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

from ..errors import DeployError, Misconfigured
from .checks import Check
from .parsing import kubernetes_address, of_kubernetes, parse


def setting(
    variable: str,
    default: Any,
    doc: str,
    *,
    secret: bool = False,
    positive: bool = False,
    check: Check | None = None,
) -> Any:
    """Return a dataclass field that is read from the environment.

    Args:
        variable: name of the environment variable.
        default: the value if the variable is unset. Its type decides how a text is parsed: as a number of
            0 or more, a comma-separated list or text; None as a path.
        doc: meaning and unit, for the tables in the documents.
        secret: hides the value in the object's text and in errors.
        positive: refuses 0 in the variable.
        check: raises Misconfigured for a wrong value; see ``checks``.
    """
    metadata = {"variable": variable, "doc": doc, "secret": secret, "positive": positive, "check": check}
    return field(default=default, repr=not secret, metadata=metadata)


def group(kind: type[FromEnvironment]) -> Any:
    """Return a dataclass field that holds a group of settings."""
    return field(default=kind())


@dataclass(frozen=True)
class Problem:
    """A setting with a wrong value.

    Attributes:
        variable: the variable at fault.
        error: the reason, and what to do.
        beside: other variables whose values make this one wrong.
    """

    variable: str
    error: DeployError
    beside: tuple[str, ...] = ()


class FromEnvironment:
    """Base of a frozen dataclass whose fields are made by ``setting`` and ``group``."""

    @classmethod
    def declared(cls) -> Iterator[Field[Any]]:
        """Yield the field of each setting, also of those in groups, in the order of declaration."""
        for f in _fields(cls):
            if isinstance(f.default, FromEnvironment):
                yield from f.default.declared()
            else:
                yield f

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings.

        Args:
            environ: variables to read; the process's own by default.

        Raises:
            Misconfigured: a value can't be parsed, or is wrong; the text names the variable.
        """
        environ = os.environ if environ is None else environ
        given = [f for f in cls.declared() if _is_set(f, environ)]
        settings = cls._of({f.metadata["variable"]: _read(f, environ) for f in given})
        settings.check()
        return settings

    @classmethod
    def usable(cls, environ: Mapping[str, str] | None = None) -> tuple[Self, Mapping[str, DeployError]]:
        """Read the settings, with the default in place of each wrong value.

        Each value is first parsed and checked by itself, then together with the values that belong to it.

        Args:
            environ: variables to read; the process's own by default.

        Returns:
            The settings; and the error of each wrong value, by variable.
        """
        environ = os.environ if environ is None else environ
        wrong: dict[str, DeployError] = {}
        values: dict[str, Any] = {}
        for f in cls.declared():
            if not _is_set(f, environ):
                continue
            try:
                values[f.metadata["variable"]] = _read(f, environ)
            except DeployError as error:
                wrong[f.metadata["variable"]] = error
        while found := _first_new(cls._of(values), wrong):
            wrong[found.variable] = found.error
            values.pop(found.variable, None)
        return cls._of(values), wrong

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these values, by variable, and defaults for all others."""
        given: dict[str, Any] = {}
        for f in _fields(cls):
            if isinstance(f.default, FromEnvironment):
                given[f.name] = type(f.default)._of(values)
            elif f.metadata["variable"] in values:
                given[f.name] = values[f.metadata["variable"]]
        return cls(**given)

    def check(self) -> None:
        """Raise the error of the first wrong setting."""
        for problem in self.problems():
            raise problem.error

    def problems(self) -> Iterator[Problem]:
        """Yield the wrong settings by the declared checks; a subclass checks several together."""
        for f in _fields(type(self)):
            value = getattr(self, f.name)
            if isinstance(value, FromEnvironment):
                yield from value.problems()
            elif check := f.metadata["check"]:
                try:
                    check(f.metadata["variable"], value, f.default)
                except DeployError as error:
                    yield Problem(f.metadata["variable"], error)


def _fields(kind: type[FromEnvironment]) -> tuple[Field[Any], ...]:
    return fields(kind)  # type: ignore[arg-type]


def _first_new(settings: FromEnvironment, wrong: Collection[str]) -> Problem | None:
    """Return a problem without any variable known to be wrong: their defaults must not count as wrong."""
    return next(
        (
            problem
            for problem in settings.problems()
            if not {problem.variable, *problem.beside}.intersection(wrong)
        ),
        None,
    )


def _is_set(of: Field[Any], environ: Mapping[str, str]) -> bool:
    return bool(environ.get(of.metadata["variable"], "").strip())


def _read(of: Field[Any], environ: Mapping[str, str]) -> Any:
    """Return the value of a field's variable; raises Misconfigured."""
    variable = of.metadata["variable"]
    text = environ[variable].strip()
    if (service := kubernetes_address(text)) and not of.metadata["secret"]:
        raise of_kubernetes(variable, service)
    value = parse(variable, text, of.default)
    if of.metadata["positive"] and not value:
        raise Misconfigured(
            f"{variable}={text!r} is 0: nothing could be done with that.",
            hint=f"Unset it for the default, {of.default}.",
        )
    return value
