"""The failure that a record keeps: of an error, a person's rollback, or a process that ended silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from ..errors import DeployError, EndedTriton, FlipUnanswered
from ..fleet.fleet import Fleet
from ..rules.deployment import Deployment, Failure, State
from ..rules.moments import utc_text
from .boot import booted_at

BY_HAND = "rolled_back"
"""Kind of the failure when a person rolled the deployment back, whether its process ran or not."""
CRASHED = "crashed"
"""Kind of the failure when the process of a step ended without recording an error."""
UNEXPECTED = "unexpected"
"""Kind of the failure when the error was none of the library's own, or a signal ended the process."""

FLIP_IN_DOUBT = (FlipUnanswered.kind, CRASHED, BY_HAND, UNEXPECTED)
"""Kinds of failure after which a flip may be on its way to a Triton although the record does not say so
(``Deployment.unanswered``). A flip that arrives after its engine is gone takes the public name down. While
the engine is loaded, clients get the verified version until the next reconcile."""


def flip_in_doubt(record: Deployment, failure: Failure) -> bool:
    """Whether a flip of this deployment may still be on its way to a Triton."""
    flipped = State.SWITCHING in record.times_utc
    return flipped and (bool(record.unanswered) or failure.kind in FLIP_IN_DOUBT)


def failure_of(step: str, error: BaseException, at: datetime) -> Failure:
    """Return what a record keeps of an error.

    Args:
        step: the step that it ended.
        error: the error, or the exception of a signal.
        at: aware time.
    """
    at_utc = utc_text(at)
    if isinstance(error, DeployError):
        return Failure(
            step=step,
            kind=error.kind,
            error=str(error),
            at_utc=at_utc,
            blames_artifact=error.blames_artifact,
            suspect=isinstance(error, EndedTriton) and error.suspect,
        )
    stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
    told = "Somebody stopped it, by Ctrl-C or SIGTERM." if stopped else f"{type(error).__name__}: {error}"
    return Failure(step=step, kind=UNEXPECTED, error=told, at_utc=at_utc)


def failure_without_error(
    record: Deployment, serving: Callable[[], Fleet], at: datetime, by: str = ""
) -> Failure:
    """Return why a deployment ended whose process recorded no error.

    The Triton that met the candidate first is asked whether it is still the same process. It is not asked
    when this machine
    has started since: then a power cut or a person ended the deployer and everything else on it.

    Args:
        record: the deployment.
        serving: gives the model's Tritons.
        at: aware time.
        by: the person who rolled it back; empty when the process ended by itself.
    """
    booted = booted_at()
    given = [url for url, when in record.given.items() if not booted or datetime.fromisoformat(when) > booted]
    lost = serving().without_memory_of(record.version, given) if given else ()
    found = Failure(
        step=record.due_step or "",
        kind=BY_HAND if by else CRASHED,
        error=f"{by} rolled it back."
        if by
        else "The step ended without saying why: its process was killed, timed out or marked failed, or nobody went on.",
        at_utc=utc_text(at),
    )
    if not lost:
        return found
    return replace(
        found,
        error=f"{found.error} Triton at {lost[0]} was started anew since it got the candidate: the model may have ended it, and so may "
        f"have somebody by hand. If it was somebody, take the model again with 'triton-deploy deploy {record.model} --alias ALIAS --force'.",
        blames_artifact=True,
        suspect=True,
    )
