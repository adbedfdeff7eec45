"""What a check is, and what it finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class DoctorVerdict(StrEnum):
    """How something stands."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something is not as it should be."""
    FAILED = "failed"
    """A deploy will fail, or guarantees do not hold."""
    UNKNOWN = "not checked"
    """It could not be checked; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        check: the check's name.
        verdict: how it stands.
        what: what was seen, and the cause; or why nothing could be.
        fix: what to do, or empty.
        after: another check, which explains this finding if it failed; or empty.
    """

    check: str
    verdict: DoctorVerdict
    what: str
    fix: str = ""
    after: str = ""


class DoctorCheck(Protocol):
    """Looks at one thing. What it raises becomes a finding: of a DeployError its message and what to do."""

    @property
    def name(self) -> str:
        """What it looks at."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Variables without which, when they can't be used, there is nothing to look at."""

    @property
    def deadline_s(self) -> float:
        """How long it may take, seconds."""

    def look(self) -> Iterator[Finding]:
        """Yield what is found, as it is found."""

    def clean_up(self) -> None:
        """Remove what the check may have left; called in any case, also when ``look`` never ended."""


class Report:
    """Makes the findings of one check.

    Args:
        check: its name.
    """

    def __init__(self, check: str) -> None:
        self._check = check

    def ok(self, what: str) -> Finding:
        """Return that something is as it should be."""
        return Finding(check=self._check, verdict=DoctorVerdict.OK, what=what)

    def warning(self, what: str, fix: str) -> Finding:
        """Return that something works and is not as it should be."""
        return Finding(check=self._check, verdict=DoctorVerdict.WARNING, what=what, fix=fix)

    def failed(self, what: str, fix: str) -> Finding:
        """Return that something does not work."""
        return Finding(check=self._check, verdict=DoctorVerdict.FAILED, what=what, fix=fix)

    def unknown(self, what: str, fix: str = "", after: str = "") -> Finding:
        """Return that something could not be checked, and why; ``after``: see Finding."""
        return Finding(check=self._check, verdict=DoctorVerdict.UNKNOWN, what=what, fix=fix, after=after)
