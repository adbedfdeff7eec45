"""The rules of a canary: the share of the clients' requests that a candidate gets, and its begin and end.

Pure: standard library only, no I/O, time is an argument. The deployment's record holds the share
(``deployment.Canary``); the deployer changes the share, the gateways read it. A share ends by itself soon
after the watcher's last sign of life.
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
"""The word among the shares after which a person has to end the step."""

STEPS_PATTERN = r"^ *([0-9]{1,3}|pause)( *, *([0-9]{1,3}|pause)){0,20} *$"
"""Shares as a user writes them: up to ten whole percentages with commas, and ``pause`` after a step that
a person ends."""

TESTERS_HEADER = "X-Model-Candidate"
"""A request goes to the candidate if this header has the deployment's key. Gateways read it, and messages
name it."""

STEP_MINUTES = 10
"""Length of a step by default, minutes."""

MOST_SHARES = 10
MOST_STEPS = MOST_SHARES + 1
"""The shares, after one step of mirroring or of testers alone."""

MAX_TOTAL_S = 8 * 3600.0
"""Longest canary, all steps together, seconds: each prolongation writes one file of the deployment's
journal."""

MAX_SILENCE_S = 600.0
"""A share with more time left was written by a wrong clock, and does not count; seconds."""

MAX_HOLD_S = 24 * 3600.0
"""Longest time that a step may wait beyond its duration, seconds."""

MOST_TEXT = 300
"""Longest part of a reason that is kept, characters."""

_EXPOSED = frozenset({State.VERIFIED, State.TRIED, State.SWITCHING, State.COMMITTING})


class Decision(StrEnum):
    """A person's decision on a running canary."""

    PAUSE = "pause"
    """The step does not end by itself, and its watch goes on."""
    RESUME = "resume"
    """Take a pause back."""
    PROMOTE = "promote"
    """End the step now: the next step begins, or the candidate is committed."""
    ABORT = "abort"
    """End the canary: no client gets the candidate any more, and the deployment is rolled back."""


@dataclass(frozen=True)
class CanaryStep:
    """One step: a share of the requests is mirrored to the candidate or answered by it.

    With 0 % only testers get the candidate: requests that carry the deployment's key.
    """

    mirrored: bool
    percent: int

    def __str__(self) -> str:
        if not self.percent:
            return "testers alone"
        return f"{self.percent} % {'mirrored to' if self.mirrored else 'answered by'} the candidate"


@dataclass(frozen=True)
class Exposure:
    """The part of a model's traffic that a candidate gets now.

    Attributes:
        deploy_id: the deployment that the candidate belongs to.
        version: the candidate.
        share_percent: share of the requests that the candidate answers.
        mirrored_percent: share of the other requests that is mirrored to the candidate.
        left_s: how long the shares hold, seconds from the moment of reading.
        triton: gRPC address of the one Triton on which the candidate meets clients; empty for any Triton.
        tritons: gRPC addresses of all serving Tritons, in the deployer's order.
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
        """Whether the candidate answers a client of this name.

        The answer is the same on every gateway, and stays true when the share grows. Every deployment has
        other clients that meet its candidate first. The deployment's secret decides, not its id, which
        clients know: so no client can choose a name that meets the candidate, or a name that does not.
        """
        secret = self.key or self.deploy_id
        return is_among(name, self.share_percent, secret)

    def is_for(self, key: bytes) -> bool:
        """Whether a request with this key goes to the candidate; never without a secret."""
        return bool(self.key) and hmac.compare_digest(key, self.key.encode())


def is_among(name: bytes, percent: int, key: str) -> bool:
    """Whether a client belongs to a share of all clients.

    The answer is the same on every gateway, and stays true when the share grows.

    Args:
        name: the client's name.
        percent: the share.
        key: decides which clients come first; its first 64 bytes count.
    """
    digest = hashlib.blake2b(name, digest_size=8, key=key.encode()[:64]).digest()
    return int.from_bytes(digest, "big") * 100 < percent << 64


def canary_of(shares: str, shadow_percent: int, step_minutes: float) -> Canary | None:
    """Return the canary that a user asks for, before its first step; None without shares and mirroring.

    Args:
        shares: growing percentages, such as ``5,25,50``; empty for none. ``pause`` makes the step before
            it wait for a person; in front of all shares, and without a shadow, it adds a step for testers
            alone.
        shadow_percent: share to mirror before the first share; 0 for none.
        step_minutes: duration of each step, minutes.

    Raises:
        InvalidInput: the shares, their number or the duration can't be meant.
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
    """Return the steps of a canary, in order."""
    mirrored = (CanaryStep(True, canary.shadow_percent),) if canary.shadow_percent else ()
    return (*mirrored, *(CanaryStep(False, percent) for percent in canary.shares_percent))


def step_of(canary: Canary) -> CanaryStep:
    """Return the current step."""
    return steps_of(canary)[canary.step - 1]


def is_last(canary: Canary) -> bool:
    """Whether the current step is the last one."""
    return canary.step == len(steps_of(canary))


def waits_for_person(canary: Canary) -> bool:
    """Whether only a person ends the current step."""
    return canary.step in canary.waits


def longest_s(hold_s: float) -> float:
    """Return the longest duration of a canary, with the waits of all its steps, seconds.

    Args:
        hold_s: longest wait of one step, seconds.
    """
    return MAX_TOTAL_S + MOST_STEPS * hold_s


def told(canary: Canary, what: Decision, by: str, reason: str, now: datetime) -> Canary:
    """Return a canary with a person's decision, which the watcher carries out at its next check.

    An abort takes the share away at once, with or without a watcher, because gateways read the share from
    the record.

    Args:
        canary: the canary before the decision.
        what: the decision; RESUME takes back the decision before.
        by: the person.
        reason: the person's reason, or empty.
        now: aware time.
    """
    if what is Decision.RESUME:
        return replace(canary, told={}, held_utc="", held_for="")
    said = {"what": str(what), "by": by, "at_utc": utc_text(now), "reason": reason[:MOST_TEXT]}
    if what is Decision.ABORT:
        return replace(canary, told=said, share_percent=0, mirrored_percent=0)
    return replace(canary, told=said)


def is_told(canary: Canary, what: Decision) -> bool:
    """Whether this is a person's last decision."""
    return canary.told.get("what") == what


def who_told(canary: Canary) -> str:
    """Return the person behind the last decision, with the reason, for a sentence."""
    reason = canary.told.get("reason", "")
    return canary.told.get("by", "somebody") + (f" ({reason})" if reason else "")


def withdrawn(canary: Canary) -> Canary:
    """Return a canary whose candidate gets only the testers' requests for now."""
    return replace(canary, share_percent=0, mirrored_percent=0)


def is_withdrawn(canary: Canary) -> bool:
    """Whether the candidate gets no share although its step has one."""
    return bool(canary.step and step_of(canary).percent) and not (
        canary.share_percent or canary.mirrored_percent
    )


def held_s(canary: Canary, now: datetime) -> float:
    """Return how long the step has waited beyond its duration, seconds; 0 when it does not wait."""
    return (now - datetime.fromisoformat(canary.held_utc)).total_seconds() if canary.held_utc else 0.0


def begun(canary: Canary, number: int, now: datetime, silence_s: float) -> Canary:
    """Return a canary whose step ``number`` (1 for the first) begins now.

    Args:
        canary: the canary before the step.
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
    """Return a canary whose shares hold for ``silence_s`` more seconds, with the latest judgment."""
    until = utc_text(now + timedelta(seconds=silence_s))
    return replace(canary, until_utc=until, judgment=judgment or canary.judgment)


def watched_s(canary: Canary, now: datetime) -> float:
    """Return how long the current step has lasted, seconds."""
    return (now - datetime.fromisoformat(canary.since_utc)).total_seconds()


def left_s(canary: Canary, now: datetime) -> float:
    """Return how long the shares still hold, seconds; 0 or less when they have ended or have not begun."""
    return (datetime.fromisoformat(canary.until_utc) - now).total_seconds() if canary.until_utc else 0.0


def exposure(record: Deployment | None, generation: int, now: datetime) -> Exposure | None:
    """Return the part of the traffic that a deployment's candidate gets; None if it gets nothing.

    None means not even testers' requests. The candidate gets nothing after the deployment has failed or
    was rolled back, after a release was committed since the deployment began (its own, too), and after
    its watcher was silent for too long.

    Args:
        record: the deployment that has the model's lease, as last recorded.
        generation: generation of the live release.
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
    """Return the shares in a user's text, and the numbers of the steps that ``pause`` follows.

    Args:
        text: the user's text.
        before: number of steps before the first share.
    """
    shares: list[int] = []
    waits: list[int] = []
    for part in map(str.strip, text.split(",")) if text.strip() else ():
        if part == PAUSE:
            # A pause in front of all shares has no step to wait in: add a step for testers.
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
