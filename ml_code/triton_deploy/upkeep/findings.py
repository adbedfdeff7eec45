"""The findings of a reconcile that looks at one model.

A finding changes nothing before its repair is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Repair:
    """Something that differs from the last release, and the call that puts it right.

    Attributes:
        what: the repair in words, such as "load version 2 into HOST"; two looks that find the same text
            found the same fault.
        act: does it; raises a DeployError when it can't.
    """

    what: str
    act: Callable[[], object]


@dataclass(frozen=True)
class Problem:
    """Something that only a person can put right, or a Triton that does not answer."""

    text: str


@dataclass(frozen=True)
class Hanging:
    """A name that a Triton neither serves nor unloads.

    Attributes:
        name: the name and the Triton's address.
        state: the state that the Triton reports: ``LOADING`` or ``UNLOADING``.
        version: the version whose engine has that name; None for the model's public name.
    """

    name: str
    state: str
    version: int | None

    @property
    def problem(self) -> str:
        """What a person has to do about it."""
        return (
            f"{self.name} is {self.state}, and no deployment is under way: it computes there, or hangs. "
            "Restart that Triton"
        )


@dataclass(frozen=True)
class Foreign:
    """A file or a loaded model that has a name of this model and is not the deployer's: it is left alone."""

    what: str


Finding = Repair | Problem | Hanging | Foreign


@dataclass(frozen=True)
class Observation:
    """All findings of one look, by their kind, each in the order in which it was found.

    Attributes:
        repairs: in the order in which they have to be done.
        problems: see Problem.
        hanging: see Hanging.
        foreign: see Foreign.
    """

    repairs: tuple[Repair, ...]
    problems: tuple[Problem, ...]
    hanging: tuple[Hanging, ...]
    foreign: tuple[Foreign, ...]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Self:
        """Sort findings by their kind."""
        found = tuple(findings)
        return cls(
            repairs=tuple(finding for finding in found if isinstance(finding, Repair)),
            problems=tuple(finding for finding in found if isinstance(finding, Problem)),
            hanging=tuple(finding for finding in found if isinstance(finding, Hanging)),
            foreign=tuple(finding for finding in found if isinstance(finding, Foreign)),
        )
