"""A row of the table, and the errors that later code tells apart by their type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import ArtifactRejected, DeployError, Misconfigured, Unavailable
from ..shapes import Reported
from .calls import ANY, Call

REFUSED = "Triton at {url} refused {doing}: {said}."


class NotPolled(Misconfigured):
    """Triton does not see a folder, can't read it, or refuses its configuration, all in the same words."""


class OtherShapes(ArtifactRejected):
    """The shapes of a configuration are not those of the session that Triton's backend opened.

    Attributes:
        reported: the shapes of that session, if that Triton was asked for them.
    """

    reported: Reported | None = None

    def worded(self, message: str) -> OtherShapes:
        """Return this error with another text."""
        error = OtherShapes(message, hint=self.hint)
        error.reported = self.reported
        return error


class StillLoaded(Unavailable):
    """Triton has unloaded a model, and has it again: a load has overtaken the unload."""


@dataclass(frozen=True)
class Row:
    """One row of the table: the texts of a failure, and the error that they become.

    Attributes:
        name: the row, for tests and readers.
        error: the error to raise; its class says who acts.
        hint: the advice; may name ``{limit}`` and ``{repair}``, see ``Call``.
        says: patterns; one of them has to match the beginning of the reason. Without any, every reason fits.
        status: gRPC status codes; the answer has to have one of them. Without any, every status fits.
        during: calls in which the row counts.
        message: the error's text, with ``{url}``, ``{doing}``, ``{timeout_s}`` and ``{said}``.
    """

    name: str
    error: type[DeployError]
    hint: str
    says: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    during: tuple[Call, ...] = ANY
    message: str = "Triton at {url} failed {doing}: {said}."

    def __post_init__(self) -> None:
        if self.error.blames_artifact and not all(call.may_blame for call in self.during):
            raise ValueError(f"{self.name}: only a call in which a model does something may blame it")

    def fits(self, call: Call, status: str, reason: str) -> bool:
        """Whether the row is about this answer of Triton.

        Args:
            call: the call that failed.
            status: gRPC status code, such as ``INTERNAL``.
            reason: Triton's text without what begins the text of every failure; see ``reason_of``.
        """
        if call not in self.during or (self.status and status not in self.status):
            return False
        return not self.says or any(re.match(pattern, reason, re.DOTALL) for pattern in self.says)
