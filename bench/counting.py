"""Counts the failures and delays of clients from their answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .steady_clients import Answer

SLOW_S = 0.1
"""A request that takes longer counts as slow, seconds."""


def failed(answers: Iterable[Answer]) -> int:
    """Return the number of failed requests."""
    return sum(1 for answer in answers if not answer.version)


def slow(answers: Iterable[Answer]) -> int:
    """Return the number of requests that were answered more than ``SLOW_S`` after they were due."""
    return sum(1 for answer in answers if answer.answered_s - answer.asked_s > SLOW_S)


def slowest_ms(answers: Iterable[Answer]) -> float:
    """Return the time from when the slowest request was due to its answer, milliseconds."""
    return 1000 * max(answer.answered_s - answer.asked_s for answer in answers)


def unverified(answers: Iterable[Answer], version: int, verified_s: float) -> int:
    """Return the number of requests that a version answered before it was verified.

    Args:
        answers: the answers of the clients.
        version: the version.
        verified_s: time at which the version was verified; ``math.inf`` if it never was.
    """
    return sum(1 for answer in answers if answer.version == version and answer.answered_s < verified_s)


def until_all_ms(clients: Iterable[Sequence[Answer]], version: int, since_s: float) -> float:
    """Return the time until every client gets a version, and from then on no other version and no failure.

    Args:
        clients: the answers of each client.
        version: the version that all clients are to get.
        since_s: start of the time, ``time.perf_counter``.

    Raises:
        LookupError: the last answer of a client is not of this version.
    """
    return 1000 * (max(_only_from(answers, version) for answers in clients) - since_s)


def _only_from(answers: Sequence[Answer], version: int) -> float:
    first_s = None
    for answer in reversed(answers):
        if answer.version != version:
            break
        first_s = answer.answered_s
    if first_s is None:
        raise LookupError(f"a client does not get version {version} at the end")
    return first_s
