"""The rules of a canary: which share of the clients' requests a candidate gets, from when to when.

Pure: standard library only, no I/O, time is an argument. The deployment's record holds the share (``deployment.Canary``); the deployer
changes it, the gateways read it. A share ends by itself soon after the last sign of life of whoever watches.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from ..errors import InvalidInput
from .deployment import Canary, Deployment, State
from .moments import utc_text

PAUSE = "pause"
"""Stands among the shares where a person is waited for."""

STEPS_PATTERN = r"^ *([0-9]{1,3}|pause)( *, *([0-9]{1,3}|pause)){0,20} *$"
"""Shares as a person writes them: up to ten whole percentages with commas, and ``pause`` after those that a person has to end."""

TESTERS_HEADER = "X-Model-Candidate"
"""With the deployment's key as its value, a request is the candidate's; gateways read it, and people are told of it."""

MOST_SHARES = 10
MOST_STEPS = MOST_SHARES + 1
"""The shadow, or the testers alone, come before the shares."""

MAX_TOTAL_S = 8 * 3600.0
"""Longest canary, all steps, seconds: each prolongation is a file of the deployment's journal."""

MAX_SILENCE_S = 600.0
"""A share that has more time left was written by a clock that was wrong: it is not believed; seconds."""

MAX_HOLD_S = 24 * 3600.0
"""Longest time that a step may wait beyond its own, seconds."""

MOST_TEXT = 300
"""Characters that are kept of a reason."""

_EXPOSED = frozenset({State.VERIFIED, State.TRIED, State.SWITCHING, State.COMMITTING})


class Decision(StrEnum):
    """What a person says of a canary that is under way."""

    PAUSE = "pause"
    """The step does not end by itself; it is watched on."""
    RESUME = "resume"
    """Take a pause back."""
    PROMOTE = "promote"
    """End the step now: the next one begins, or the candidate is committed."""
    ABORT = "abort"
    """End the canary: no client gets the candidate any more, and it is rolled back."""


@dataclass(frozen=True)
class CanaryStep:
    """One step: what is done with so many percent of the requests. 0 % are testers alone, who name the deployment's key."""

    mirrored: bool
    percent: int

    def __str__(self) -> str:
        if not self.percent:
            return "testers alone"
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
        key: the deployment's secret; empty in records of earlier code.
    """

    deploy_id: str
    version: int
    share_percent: int
    mirrored_percent: int
    left_s: float
    triton: str = ""
    tritons: tuple[str, ...] = ()
    key: str = field(default="", repr=False)

    def answers(self, name: bytes) -> bool:
        """Whether the candidate answers a client that names itself: the same on every gateway, and still so when the share grows.

        Which clients are the first to meet a candidate is different for every deployment. Clients know a deployment's id, so its
        secret decides: nobody can choose a name that meets the candidate, or one that does not.
        """
        secret = self.key or self.deploy_id
        return is_among(name, self.share_percent, secret)

    def is_for(self, key: bytes) -> bool:
        """Whether a tester may have the candidate that sends ``key``; nobody may of a deployment without a secret."""
        return bool(self.key) and hmac.compare_digest(key, self.key.encode())


def is_among(name: bytes, percent: int, key: str) -> bool:
    """Whether a client that names itself is one of so many percent of all: the same everywhere, and still so when the share grows.

    Args:
        name: the client's.
        percent: the share.
        key: which clients are the first; 64 bytes of it count.
    """
    digest = hashlib.blake2b(name, digest_size=8, key=key.encode()[:64]).digest()
    return int.from_bytes(digest, "big") * 100 < percent << 64


def canary_of(shares: str, shadow_percent: int, step_minutes: float) -> Canary | None:
    """Return the canary that somebody asks for, before its first step; None when there is none.

    Args:
        shares: percentages that grow, such as ``5,25,50``; empty for none. ``pause`` among them makes the step before it wait for a
            person; in front of all, without a shadow, testers alone have the candidate meanwhile.
        shadow_percent: share to mirror before; 0 for none.
        step_minutes: how long each step is watched, minutes.

    Raises:
        InvalidInput: what can't be meant.
    """
    steps, waits = _steps(shares, 1 if shadow_percent else 0)
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
    return Canary(shares_percent=steps, shadow_percent=shadow_percent, step_s=step_minutes * 60, waits=waits)


def steps_of(canary: Canary) -> tuple[CanaryStep, ...]:
    """Return the steps of a canary in their order."""
    mirrored = (CanaryStep(True, canary.shadow_percent),) if canary.shadow_percent else ()
    return (*mirrored, *(CanaryStep(False, percent) for percent in canary.shares_percent))


def step_of(canary: Canary) -> CanaryStep:
    """Return the step that has begun last."""
    return steps_of(canary)[canary.step - 1]


def is_last(canary: Canary) -> bool:
    """Whether no step follows."""
    return canary.step == len(steps_of(canary))


def waits_for_person(canary: Canary) -> bool:
    """Whether the step that has begun last ends only when a person says so."""
    return canary.step in canary.waits


def longest_s(hold_s: float) -> float:
    """Return how long a canary may take with all that its steps wait beyond their time, seconds.

    Args:
        hold_s: longest that one step waits, seconds.
    """
    return MAX_TOTAL_S + MOST_STEPS * hold_s


def told(canary: Canary, what: Decision, by: str, reason: str, now: datetime) -> Canary:
    """Return a canary of which a person has said something; the watch does it at its next look.

    An abort takes the share away at once, whether anybody watches or not: gateways read it from here.

    Args:
        canary: as it is.
        what: what the person said; RESUME takes back what was said before.
        by: who it was.
        reason: why, or empty.
        now: aware time.
    """
    if what is Decision.RESUME:
        return replace(canary, told={}, held_utc="", held_for="")
    said = {"what": str(what), "by": by, "at_utc": utc_text(now), "reason": reason[:MOST_TEXT]}
    if what is Decision.ABORT:
        return replace(canary, told=said, share_percent=0, mirrored_percent=0)
    return replace(canary, told=said)


def is_told(canary: Canary, what: Decision) -> bool:
    """Whether a person said that last."""
    return canary.told.get("what") == what


def who_told(canary: Canary) -> str:
    """Return who said it, and why, for a sentence."""
    reason = canary.told.get("reason", "")
    return canary.told.get("by", "somebody") + (f" ({reason})" if reason else "")


def withdrawn(canary: Canary) -> Canary:
    """Return a canary whose candidate gets nothing for the time being, but for testers."""
    return replace(canary, share_percent=0, mirrored_percent=0)


def is_withdrawn(canary: Canary) -> bool:
    """Whether the candidate does not get what its step gives it."""
    return bool(canary.step and step_of(canary).percent) and not (
        canary.share_percent or canary.mirrored_percent
    )


def held_s(canary: Canary, now: datetime) -> float:
    """Return for how long the step has waited beyond its time, seconds; 0 when it does not."""
    return (now - datetime.fromisoformat(canary.held_utc)).total_seconds() if canary.held_utc else 0.0


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
            held_utc="",
            held_for="",
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
    """Return what the candidate of a deployment gets of the traffic; None when that is nothing, testers' requests included.

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
    if is_told(canary, Decision.ABORT) or record.base_generation != generation:
        return None
    if not 0 < remaining_s <= MAX_SILENCE_S:
        return None
    if not (canary.share_percent or canary.mirrored_percent or canary.key):
        return None
    return Exposure(
        record.deploy_id,
        record.version,
        canary.share_percent,
        canary.mirrored_percent,
        remaining_s,
        canary.triton,
        canary.tritons,
        canary.key,
    )


def _steps(text: str, before: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shares that somebody wrote, and the numbers of the steps after which he wrote ``pause``.

    Args:
        text: what was written.
        before: steps that come before the first share.
    """
    shares: list[int] = []
    waits: list[int] = []
    for part in map(str.strip, text.split(",")) if text.strip() else ():
        if part == PAUSE:
            # In front of all there is nothing to wait after: testers get a step of their own.
            shares += [] if before or shares else [0]
            waits.append(before + len(shares))
        elif part.isascii() and part.isdigit() and int(part):
            shares.append(int(part))
        else:
            raise _no_shares(text)
    growing = all(earlier < later for earlier, later in pairwise(shares))
    if not growing or max(shares, default=0) > 100 or len(set(waits)) < len(waits):
        raise _no_shares(text)
    if len(list(filter(None, shares))) > MOST_SHARES:
        raise _no_shares(text)
    return tuple(shares), tuple(waits)


def _no_shares(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text!r} are not the shares of a canary.",
        hint=f"Use up to {MOST_SHARES} whole percentages that grow, such as 5,25,50, and 'pause' after those that a person has to end: "
        "5,pause,50.",
    )
