"""A small language of rules for a JSON document: for each path, the type of its value and the bounds.

A path without a rule is refused, so an option that a later version of the document's reader adds is
refused as well.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..errors.texts import excerpt

SHOWN = 60
"""Most characters of a value or a key in a message."""


@dataclass(frozen=True)
class Refused:
    """A refusal of a part of the document.

    Attributes:
        path: the part's path, such as ``instance_group[0].count``.
        why: the reason, as a clause that follows the document's name: "has instance_group[0].count 99,
            not ...".
        instead: the allowed or intended contents, as sentences; empty when ``why`` tells them.
    """

    path: str
    why: str
    instead: str = ""


class Rule(Protocol):
    """The rule of a value."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, as they read after "not"."""

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """Yield the refusals of a value and of everything in it."""


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        """See Rule.allowed."""
        return f"a whole number from {self.least} to {self.most}"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            yield is_not(self, value, path)


@dataclass(frozen=True)
class WholeText:
    """A whole number within bounds, written as a text."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        """See Rule.allowed."""
        return f"a text with a whole number from {self.least} to {self.most}"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        plain = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}", value)
        if not plain or not self.least <= int(plain[0]) <= self.most:
            yield is_not(self, value, path)


@dataclass(frozen=True)
class Flag:
    """true or false."""

    allowed: str = "true or false"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if not isinstance(value, bool):
            yield is_not(self, value, path)


@dataclass(frozen=True)
class OneOf:
    """One of some texts."""

    texts: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """See Rule.allowed."""
        return f"one of {', '.join(json.dumps(text) for text in self.texts)}"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if not isinstance(value, str) or value not in self.texts:
            yield is_not(self, value, path)


@dataclass(frozen=True)
class Text:
    """A text that matches a pattern."""

    pattern: str
    allowed: str

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            yield is_not(self, value, path)


@dataclass(frozen=True)
class Either:
    """A value that one of several rules takes."""

    rules: tuple[Rule, ...]
    allowed: str

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if all(any(rule.refusals(value, path)) for rule in self.rules):
            yield is_not(self, value, path)


@dataclass(frozen=True)
class List:
    """A list of values that one rule takes."""

    of: Rule
    most: int

    @property
    def allowed(self) -> str:
        """See Rule.allowed."""
        return f"a list of no more than {self.most}"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if not isinstance(value, list):
            yield is_not(self, value, path)
        elif len(value) > self.most:
            yield Refused(path, f"has {len(value)} entries in {path}, and {self.most} are allowed")
        else:
            for place, one in enumerate(value):
                yield from self.of.refusals(one, f"{path}[{place}]")


@dataclass(frozen=True)
class Map:
    """An object with free keys: one rule takes its keys, another its values."""

    key: Rule
    of: Rule
    most: int

    @property
    def allowed(self) -> str:
        """See Rule.allowed."""
        return f"an object of no more than {self.most}"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if not isinstance(value, dict):
            yield is_not(self, value, path)
        elif len(value) > self.most:
            yield Refused(path, f"has {len(value)} entries in {path}, and {self.most} are allowed")
        else:
            for name, one in value.items():
                if any(self.key.refusals(name, path)):
                    yield Refused(path, f"has the key {shown(name)} in {path}, not {self.key.allowed}")
                yield from self.of.refusals(one, joined(path, name))


class Fields:
    """An object with fixed keys, each with a rule of its own.

    Args:
        of: the rule of each key.
        needs: required keys.
    """

    def __init__(self, of: Mapping[str, Rule], needs: tuple[str, ...] = ()) -> None:
        self.of = dict(of)
        self.needs = needs

    @property
    def allowed(self) -> str:
        """See Rule.allowed."""
        return f"an object with {', '.join(self.of)}" if self.of else "an empty object"

    def refusals(self, value: object, path: str) -> Iterator[Refused]:
        """See Rule.refusals."""
        if not isinstance(value, dict):
            yield is_not(self, value, path)
            return
        for name, one in value.items():
            if name in self.of:
                yield from self.of[name].refusals(one, joined(path, name))
            else:
                yield self._unknown(name, path)
        for name in self.needs:
            if name not in value:
                yield Refused(joined(path, name), f"lacks {joined(path, name)}, {self.of[name].allowed}")

    def _unknown(self, name: str, path: str) -> Refused:
        # Protocol Buffers' own JSON writes dataType for data_type.
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:SHOWN]).lower()
        meant = next(iter(difflib.get_close_matches(snake, self.of, n=1, cutoff=0.8)), "")
        where, which = path or "At the top it", ", ".join(self.of) or "nothing"
        return Refused(
            joined(path, name),
            f"sets {joined(path, name)}, which may not be set",
            (f"Did you mean {meant}? " if meant else "") + f"{where} may hold {which}.",
        )


def is_not(rule: Rule, value: object, path: str) -> Refused:
    """Return the refusal of a value that a rule does not take."""
    return Refused(path, f"has {path} {shown(value)}, not {rule.allowed}")


def shown(value: object) -> str:
    """Return the beginning of a value as JSON, for a message."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return excerpt(json.dumps(value, ensure_ascii=False), SHOWN)


def joined(path: str, name: str) -> str:
    """Return the path of a key of the object at ``path``; an empty path is the document itself."""
    key = excerpt(name, SHOWN)
    return f"{path}.{key}" if path else key
