"""Why a delivery is not taken, with its HTTP status. MLflow repeats only what is answered with 429 or 5xx."""

from __future__ import annotations

from typing import ClassVar


class Refused(Exception):
    """A delivery that is not taken; the text says why, for the sender's log."""

    status: ClassVar[int] = 400


class Malformed(Refused):
    """It is not what MLflow sends."""


class Forged(Refused):
    """It is not signed with the secret, or not lately."""

    status = 401


class TooSlow(Refused):
    """The body did not arrive in time."""

    status = 408


class TooLarge(Refused):
    """The body is larger than the limit; the rest of it is not read."""

    status = 413
