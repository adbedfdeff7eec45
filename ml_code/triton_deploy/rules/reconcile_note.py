"""The note that a reconcile leaves for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from . import reader
from .reader import Moment


@dataclass(frozen=True, kw_only=True)
class ReconcileNote:
    """The findings of a reconcile of one model.

    Attributes:
        at_utc: when the reconcile ended.
        done: its repairs.
        problems: problems that it could not repair.
        notices: findings that need no repair, by their kind.
        under_way: the running deployment that kept the reconcile from looking, or empty.
        stuck: state in Triton of each engine that hangs while it is loaded or unloaded, by
            ``<engine> on <address>``.
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
