"""Reasons to refuse a delivery, with HTTP status. MLflow repeats a delivery only after 429 or 5xx."""

from __future__ import annotations

from typing import ClassVar


class Refused(Exception):
    """A delivery is refused; the text is the reason, for the sender's log."""

    status: ClassVar[int] = 400


class Malformed(Refused):
    """The delivery is not an event of MLflow."""


class Forged(Refused):
    """The delivery is not signed with an accepted secret, or was signed too long ago."""

    status = 401


class TooSlow(Refused):
    """The body did not arrive in time."""

    status = 408


class TooLarge(Refused):
    """The body is larger than the limit; the receiver does not read the rest."""

    status = 413
