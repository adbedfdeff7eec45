"""A wall-clock limit for calls that have none, such as a name lookup or a request of botocore."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ...errors import Unavailable

T = TypeVar("T")


def within(seconds: float, doing: str, action: Callable[[], T]) -> T:
    """Run an action and return its result, or stop waiting for it.

    Args:
        seconds: longest wait; a late action goes on in a thread that doesn't keep the process alive.
        doing: name of the action, as the text before "did not end": ``telling MLflow``.
        action: the function to call.

    Raises:
        Unavailable: the action did not end in time.
        Exception: any exception of the action.
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
