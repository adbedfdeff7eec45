"""The result of a command: a value for programs, lines for people, and what a terminal draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from ..rules.deployment import Deployment
from .exit_codes import ExitCode


class Tone(StrEnum):
    """The meaning of a text, which a terminal shows by a colour."""

    PLAIN = ""
    GOOD = "green"
    BAD = "bold red"
    CAREFUL = "yellow"
    FAINT = "dim"


@dataclass(frozen=True)
class Fact:
    """A line below a heading.

    Attributes:
        label: the subject; may be empty.
        text: what is said of it.
        tone: its meaning.
    """

    label: str
    text: str
    tone: Tone = Tone.PLAIN

    def __str__(self) -> str:
        return f"  {self.label}: {self.text}" if self.label else f"  {self.text}"


@dataclass(frozen=True)
class Section:
    """A heading with facts below it.

    Attributes:
        heading: the subject of the facts.
        facts: see Fact.
        tone: the heading's meaning.
    """

    heading: str
    facts: Iterable[Fact] = ()
    tone: Tone = Tone.PLAIN

    def lines(self) -> Iterator[str]:
        """Yield the heading and each fact as a line."""
        yield self.heading
        yield from map(str, self.facts)


Cell = tuple[str, Tone]
"""A text in a table, and its meaning."""


@dataclass(frozen=True)
class Table:
    """A table, for a terminal alone.

    Attributes:
        columns: headings; a table whose headings are all empty shows none.
        rows: cells of each row; one row is asked for after the other.
        after: a line below the table; may be empty.
        without: the line in place of a table that has no rows; may be empty.
    """

    columns: Sequence[str]
    rows: Iterable[Sequence[Cell]]
    after: str = ""
    without: str = ""


@dataclass(frozen=True)
class Told:
    """The result of a command, for programs and for people.

    Only one of ``value``, ``lines`` and ``drawing`` is read, so they may come from one iterator.

    Attributes:
        value: the JSON value: an object, or the objects of an array.
        lines: the lines for people; each is printed before the next is asked for.
        exit_code: the exit code of the process.
        drawing: what a terminal shows instead of the lines, which it wraps.
    """

    value: Mapping[str, Any] | Iterable[Mapping[str, Any]]
    lines: Iterable[str]
    exit_code: int = ExitCode.DONE
    drawing: Iterable[Section | Table] | None = None

    @classmethod
    def of(cls, record: Deployment | None, text: str, serves: str, exit_code: int = ExitCode.DONE) -> Self:
        """Return the result of a command on one deployment.

        Args:
            record: the deployment; None when it had not begun.
            text: the lines for people.
            serves: a sentence on the live version, for programs.
            exit_code: see above.
        """
        value = (asdict(record) if record else {}) | {"serves": serves}
        return cls(value, text.split("\n"), exit_code)

    @classmethod
    def in_sections(
        cls,
        value: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        sections: Iterable[Section],
        exit_code: int = ExitCode.DONE,
    ) -> Self:
        """Return a result whose lines are those of sections."""
        return cls(value, (line for section in sections for line in section.lines()), exit_code, sections)
