"""Every refusal that a client can get, with its HTTP status and its outcome in the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One field of a request, and the problem with it."""

    field: str
    problem: str


class GatewayError(Exception):
    """A refusal.

    Args:
        message: the cause, and a way out, for the client.
        headers: further response headers.
        problems: the fields at fault.
    """

    status: ClassVar[int] = 500
    outcome: ClassVar[str] = "failed"

    def __init__(
        self, message: str, *, headers: Mapping[str, str] | None = None, problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})
        self.problems = tuple(problems)


class Malformed(GatewayError):
    """The body or a header breaks the protocol."""

    status, outcome = 400, "refused"


class Unauthorized(GatewayError):
    """The API key is missing or wrong."""

    status, outcome = 401, "refused"


class Forbidden(GatewayError):
    """The API key does not cover this path."""

    status, outcome = 403, "refused"


class UnknownPath(GatewayError):
    """No such model, version or endpoint."""

    status, outcome = 404, "refused"


class WrongMethod(GatewayError):
    """The endpoint exists, but not with this method."""

    status, outcome = 405, "refused"


class TooSlow(GatewayError):
    """The client did not send its body in time."""

    status, outcome = 408, "refused"


class TooLarge(GatewayError):
    """The body is larger than a limit; the rest of it is not read."""

    status, outcome = 413, "refused"


class Encoded(GatewayError):
    """The body is compressed or in another media type."""

    status, outcome = 415, "refused"


class Unprocessable(GatewayError):
    """The values do not fit the model's inputs."""

    status, outcome = 422, "refused"


class Busy(GatewayError):
    """The queue or the memory for bodies is full."""

    status, outcome = 429, "busy"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "1"})


class BackendFailed(GatewayError):
    """The model failed on a request that fits its signature, or its server gave no valid answer."""

    status, outcome = 502, "failed"


class Unavailable(GatewayError):
    """No backend can answer now: no Triton is reachable, or nothing is live yet.

    Args:
        retry_after_s: time after which to try again, seconds.
    """

    status, outcome = 503, "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, headers={"Retry-After": str(math.ceil(retry_after_s))})


class Interrupted(Unavailable):
    """A Triton's connection ended while it had the request of a candidate."""


class Absent(Unavailable):
    """The one Triton of a candidate can't be reached, or does not have the candidate."""


class TimedOut(GatewayError):
    """The model did not answer in time."""

    status, outcome = 504, "timeout"


class NeverAsked(TimedOut):
    """The request's time was up before its turn came: no version is to blame."""

    outcome = "busy"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "1"})
