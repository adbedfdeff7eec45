"""A limit in wall-clock time for what has none of its own: a name server that hangs, a server that answers drop by drop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ...errors import Unavailable

T = TypeVar("T")


def within(seconds: float, doing: str, action: Callable[[], T]) -> T:
    """Do something and return what it gives, or stop waiting for it.

    Args:
        seconds: how long to wait; what is late goes on in a thread that doesn't keep the process alive.
        doing: what it is, as it reads before "did not end": ``telling MLflow``.
        action: what to do.

    Raises:
        Unavailable: it is late.
        Exception: what it raised.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=doing, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise Unavailable(
            f"{doing[:1].upper()}{doing[1:]} did not end within {seconds:g} s.",
            hint="The server hangs or is very slow: see its log.",
        )
    return answers[0]
