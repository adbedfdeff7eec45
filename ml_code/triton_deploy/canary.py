"""The rules of a canary: which share of the clients' requests a candidate gets, from when to when.

Pure: standard library only, no I/O, time is an argument. The deployment's record holds the share (``records.Canary``); the deployer
changes it, the gateways read it. A share ends by itself soon after the last sign of life of whoever watches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from .errors import InvalidInput
from .records import Canary, Deployment, State, utc_text

STEPS_PATTERN = r"^ *[0-9]{1,3}( *, *[0-9]{1,3}){0,9} *$"
"""Shares as a person writes them: up to ten whole percentages with commas."""

MAX_TOTAL_S = 8 * 3600.0
"""Longest canary, all steps, seconds: each prolongation is a file of the deployment's journal."""

MAX_SILENCE_S = 600.0
"""A share that has more time left was written by a clock that was wrong: it is not believed; seconds."""

_EXPOSED = frozenset({State.VERIFIED, State.TRIED, State.SWITCHING, State.COMMITTING})


@dataclass(frozen=True)
class Step:
    """One step: what is done with so many percent of the requests."""

    mirrored: bool
    percent: int

    def __str__(self) -> str:
        return f"{self.percent} % {'mirrored to' if self.mirrored else 'answered by'} the candidate"


@dataclass(frozen=True)
class Exposure:
    """What of a model's traffic a candidate gets now.

    Attributes:
        deploy_id: the deployment that the candidate belongs to.
        version: the candidate.
        share_percent: share of the requests that it answers.
        mirrored_percent: share of the others that are repeated to it.
        left_s: how long that holds, seconds from the moment it was read.
        triton: gRPC address of the one Triton on which it meets clients; empty for any.
        tritons: gRPC addresses of all that serve, in the deployer's order.
    """

    deploy_id: str
    version: int
    share_percent: int
    mirrored_percent: int
    left_s: float
    triton: str = ""
    tritons: tuple[str, ...] = ()

    def answers(self, key: bytes) -> bool:
        """Whether the candidate answers a client that names itself by ``key``: the same on every gateway, and still so when the share grows.

        Which clients are the first to meet a candidate is different for every deployment.
        """
        digest = hashlib.blake2b(key, digest_size=8, key=self.deploy_id.encode()[:64]).digest()
        return int.from_bytes(digest, "big") * 100 < self.share_percent << 64


def canary_of(shares: str, shadow_percent: int, step_minutes: float) -> Canary | None:
    """Return the canary that somebody asks for, before its first step; None when there is none.

    Args:
        shares: percentages that grow, such as ``5,25,50``; empty for none.
        shadow_percent: share to mirror before; 0 for none.
        step_minutes: how long each step is watched, minutes.

    Raises:
        InvalidInput: what can't be meant.
    """
    steps = _shares(shares)
    if not 0 <= shadow_percent <= 100:
        raise InvalidInput(f"A share of {shadow_percent} % can't be mirrored.", hint="Use 0 to 100.")
    count = len(steps) + (1 if shadow_percent else 0)
    if not count:
        return None
    if not 0 < step_minutes * 60 * count <= MAX_TOTAL_S:
        raise InvalidInput(
            f"A canary of {count} steps of {step_minutes:g} minutes does not end within {MAX_TOTAL_S / 3600:g} hours, or at once.",
            hint="Use fewer or shorter steps.",
        )
    return Canary(shares_percent=steps, shadow_percent=shadow_percent, step_s=step_minutes * 60)


def steps_of(canary: Canary) -> tuple[Step, ...]:
    """Return the steps of a canary in their order."""
    mirrored = (Step(True, canary.shadow_percent),) if canary.shadow_percent else ()
    return (*mirrored, *(Step(False, percent) for percent in canary.shares_percent))


def step_of(canary: Canary) -> Step:
    """Return the step that has begun last."""
    return steps_of(canary)[canary.step - 1]


def is_last(canary: Canary) -> bool:
    """Whether no step follows."""
    return canary.step == len(steps_of(canary))


def begun(canary: Canary, number: int, now: datetime, silence_s: float) -> Canary:
    """Return a canary whose step ``number`` (1 for the first) begins now.

    Args:
        canary: as it is.
        number: the step.
        now: aware time.
        silence_s: how long the share lasts without a sign of life, seconds.
    """
    step = steps_of(canary)[number - 1]
    return prolonged(
        replace(
            canary,
            step=number,
            share_percent=0 if step.mirrored else step.percent,
            mirrored_percent=step.percent if step.mirrored else 0,
            since_utc=utc_text(now),
            judgment={},
        ),
        now,
        silence_s,
    )


def prolonged(canary: Canary, now: datetime, silence_s: float, **judgment: Any) -> Canary:
    """Return a canary whose shares hold for ``silence_s`` more, with what was last seen of it."""
    until = utc_text(now + timedelta(seconds=silence_s))
    return replace(canary, until_utc=until, judgment=judgment or canary.judgment)


def watched_s(canary: Canary, now: datetime) -> float:
    """Return for how long the step has been going on, seconds."""
    return (now - datetime.fromisoformat(canary.since_utc)).total_seconds()


def left_s(canary: Canary, now: datetime) -> float:
    """Return how long the shares still hold, seconds; 0 or less when they have ended or have not begun."""
    return (datetime.fromisoformat(canary.until_utc) - now).total_seconds() if canary.until_utc else 0.0


def exposure(record: Deployment | None, generation: int, now: datetime) -> Exposure | None:
    """Return what the candidate of a deployment gets of the traffic; None when that is nothing.

    Nothing, also: when the deployment has failed or was rolled back, when another release was committed since it began (its own,
    too), and when nobody gave a sign of life for too long.

    Args:
        record: the deployment that has the model's lease, as last recorded.
        generation: of the release that is live.
        now: aware time.
    """
    if record is None or record.canary is None or record.state not in _EXPOSED or record.failure is not None:
        return None
    canary, remaining_s = record.canary, left_s(record.canary, now)
    if record.base_generation != generation or not 0 < remaining_s <= MAX_SILENCE_S:
        return None
    if not (canary.share_percent or canary.mirrored_percent):
        return None
    return Exposure(
        record.deploy_id,
        record.version,
        canary.share_percent,
        canary.mirrored_percent,
        remaining_s,
        canary.triton,
        canary.tritons,
    )


def _shares(text: str) -> tuple[int, ...]:
    if not text.strip():
        return ()
    try:
        shares = tuple(int(part) for part in text.split(","))
    except ValueError:
        shares = ()
    growing = all(earlier < later for earlier, later in pairwise(shares))
    if not shares or len(shares) > 10 or not growing or not (shares[0] >= 1 and shares[-1] <= 100):
        raise InvalidInput(
            f"{text!r} are not the shares of a canary.",
            hint="Use up to ten whole percentages that grow, such as 5,25,50.",
        )
    return shares
