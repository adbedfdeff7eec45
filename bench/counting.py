"""What clients lived through, counted from what they saw. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .steady_clients import Answer

SLOW_S = 0.1
"""A request that takes longer is counted as slow, seconds."""


def failed(answers: Iterable[Answer]) -> int:
    """Return how many requests failed."""
    return sum(1 for answer in answers if not answer.version)


def slow(answers: Iterable[Answer]) -> int:
    """Return how many requests took over ``SLOW_S`` from when they were to be asked."""
    return sum(1 for answer in answers if answer.answered_s - answer.asked_s > SLOW_S)


def slowest_ms(answers: Iterable[Answer]) -> float:
    """Return how long the slowest request took from when it was to be asked, milliseconds."""
    return 1000 * max(answer.answered_s - answer.asked_s for answer in answers)


def unverified(answers: Iterable[Answer], version: int, verified_s: float) -> int:
    """Return how many requests were answered by a version that had not been verified yet.

    Args:
        answers: what the clients saw.
        version: the version in question.
        verified_s: when it had been verified; ``math.inf`` when it never was.
    """
    return sum(1 for answer in answers if answer.version == version and answer.answered_s < verified_s)


def until_all_ms(clients: Iterable[Sequence[Answer]], version: int, since_s: float) -> float:
    """Return the time until every client got a version, and from then on nothing else: no other version and no failure.

    Args:
        clients: what each client saw.
        version: the version that all shall get.
        since_s: when the time begins, ``time.perf_counter``.

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
