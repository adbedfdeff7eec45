"""The note that a reconcile leaves for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from . import reader
from .reader import Moment


@dataclass(frozen=True, kw_only=True)
class ReconcileNote:
    """What a reconcile of a model found.

    Attributes:
        at_utc: when it ended.
        done: what was put right.
        problems: what could not be.
        notices: what is worth knowing, by its kind.
        under_way: the deployment because of which nothing was looked at, or empty.
        stuck: engines that Triton neither serves nor lets go, by ``<engine> on <address>``: what Triton says of each.
    """

    at_utc: Moment
    done: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notices: Mapping[str, str] = field(default_factory=dict)
    under_way: str = ""
    stuck: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a note back; raises ValueError when ``text`` is not one."""
        return reader.decode(text, cls)
