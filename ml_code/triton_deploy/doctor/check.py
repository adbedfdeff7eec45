"""The form of a check, and of its findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class DoctorVerdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    """The checked thing works, but is not as it should be."""
    FAILED = "failed"
    """A deploy will fail, or guarantees do not hold."""
    UNKNOWN = "not checked"
    """The check was not possible; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of a check.

    Attributes:
        check: the check's name.
        verdict: the result.
        what: the observation and its cause, or the reason why a check was not possible.
        fix: what to do, or empty.
        after: name of another check, whose failure would explain this finding; or empty.
        see: name of another check, whose failure does explain it; or empty.
    """

    check: str
    verdict: DoctorVerdict
    what: str
    fix: str = ""
    after: str = ""
    see: str = ""


class DoctorCheck(Protocol):
    """A check of one subject. An exception becomes a finding: a DeployError with its message and hint."""

    @property
    def name(self) -> str:
        """The subject of the check."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Variables that the check needs; it does not run if one of them can't be used."""

    @property
    def deadline_s(self) -> float:
        """Longest duration of the check, seconds."""

    def look(self) -> Iterator[Finding]:
        """Yield each finding as soon as it is made."""

    def clean_up(self) -> None:
        """Remove everything that the check may have left; always called, even when ``look`` never ended."""


class Report:
    """Makes the findings of one check.

    Args:
        check: its name.
    """

    def __init__(self, check: str) -> None:
        self._check = check

    def ok(self, what: str) -> Finding:
        """Return the finding that the checked thing is as it should be."""
        return Finding(check=self._check, verdict=DoctorVerdict.OK, what=what)

    def warning(self, what: str, fix: str) -> Finding:
        """Return the finding that the checked thing works, but is not as it should be."""
        return Finding(check=self._check, verdict=DoctorVerdict.WARNING, what=what, fix=fix)

    def failed(self, what: str, fix: str) -> Finding:
        """Return the finding that the checked thing does not work."""
        return Finding(check=self._check, verdict=DoctorVerdict.FAILED, what=what, fix=fix)

    def unknown(self, what: str, fix: str = "", after: str = "") -> Finding:
        """Return the finding that a check was not possible, and why; ``after``: see Finding."""
        return Finding(check=self._check, verdict=DoctorVerdict.UNKNOWN, what=what, fix=fix, after=after)


def first_of(names: Sequence[str], most: int) -> str:
    """Return the first names of a list, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
