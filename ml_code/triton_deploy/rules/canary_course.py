"""Where a canary's step stands after a look: it goes on, waits, ends, or ends the deploy.

Pure rules: standard library only, no I/O, time is an argument. No evidence is no commit: a step ends by its time and by a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PATIENCE = 3
"""So many looks in a row without a measurement are no measurement: a scrape or a restart of Prometheus is less."""


class CanaryVerdict(StrEnum):
    """How a candidate does."""

    PASS = "pass"
    FAIL = "fail"
    DIFFERS = "differs"
    """Its answers are not the live version's; which of the two is right, nobody knows."""
    NO_DATA = "no_data"
    """Too few requests were seen to say."""
    UNMEASURED = "unmeasured"
    """Nobody who measures could be asked."""
    ENDED = "ended"
    """The connection to it ended while its Triton had a request: once is enough."""
    GONE = "gone"
    """The Triton on which it meets clients does not have it any more, or can't be reached."""


BAD = frozenset((CanaryVerdict.FAIL, CanaryVerdict.DIFFERS))
"""Verdicts against the candidate that take several looks in a row."""


class Course(StrEnum):
    """Where a step stands."""

    GOES_ON = "goes_on"
    HELD = "held"
    """Its time is over, and it waits: for requests, for a measurement or for a person."""
    ENDS_WELL = "ends_well"
    ENDS_UNJUDGED = "ends_unjudged"
    """It ends without a verdict: a person or the settings say so."""
    BAD = "bad"
    UNDECIDED = "undecided"
    """It waited long enough: the deployment is rolled back, and nobody is blamed."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is to know of a step.

    Attributes:
        verdict: of this look.
        why: of the verdict.
        over: whether the step's time is over.
        testers_alone: whether no client gets the candidate in this step.
        waits: whether the step ends only when a person says so.
        paused_by: who paused it, or empty.
        promoted_by: who wants it to end now, or empty.
        bad_looks: bad looks in a row, this one included.
        unmeasured_looks: looks in a row without a measurement, this one included.
        held_s: how long it has waited beyond its time, seconds.
    """

    verdict: CanaryVerdict
    why: str = ""
    over: bool = False
    testers_alone: bool = False
    waits: bool = False
    paused_by: str = ""
    promoted_by: str = ""
    bad_looks: int = 0
    unmeasured_looks: int = 0
    held_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What people set.

    Attributes:
        no_data: ``hold``, ``pass`` or ``roll_back``.
        bad_looks: so many bad looks in a row end the deploy before the step's end.
        hold_s: longest that a step waits beyond its time, seconds.
    """

    no_data: str = "hold"
    bad_looks: int = 2
    hold_s: float = 3600.0


@dataclass(frozen=True)
class Stand:
    """Where a step stands, and why; a sentence without its full stop, for a log and for people.

    Attributes:
        course: where.
        why: why it is held, unjudged, bad or undecided; empty otherwise.
        withdrawn: whether the candidate gets no share meanwhile.
    """

    course: Course
    why: str = ""
    withdrawn: bool = False


def stand(seen: Seen, policy: Policy) -> Stand:
    """Say where a step stands after a look. A candidate that is ``ENDED`` or ``GONE`` is the watch's to refuse.

    Args:
        seen: what there is to know.
        policy: what people set.
    """
    if seen.verdict in BAD and seen.bad_looks >= (1 if seen.over or seen.promoted_by else policy.bad_looks):
        return Stand(Course.BAD, seen.why)
    if seen.promoted_by:
        return _promoted(seen)
    measured = seen.verdict is not CanaryVerdict.UNMEASURED
    if not measured and seen.unmeasured_looks >= PATIENCE and policy.no_data != "pass":
        return _unmeasured(seen, policy)
    if seen.paused_by:
        return _held(f"{seen.paused_by} paused it", seen, policy)
    known = measured or seen.unmeasured_looks >= PATIENCE
    if not seen.over or not known or seen.verdict in (*BAD, CanaryVerdict.GONE):
        return Stand(Course.GOES_ON)
    if seen.waits:
        return _held("a person has to end this step", seen, policy)
    if seen.verdict is CanaryVerdict.PASS or seen.testers_alone:
        return Stand(Course.ENDS_WELL)
    return _too_few(seen, policy) if measured else _passed(f"nothing measures: {seen.why}")


def _promoted(seen: Seen) -> Stand:
    if seen.verdict is CanaryVerdict.PASS or seen.testers_alone:
        return Stand(Course.ENDS_WELL)
    return Stand(Course.ENDS_UNJUDGED, f"{seen.promoted_by} promoted it: {seen.why}")


def _unmeasured(seen: Seen, policy: Policy) -> Stand:
    why = f"nothing measures: {seen.why}"
    if policy.no_data == "roll_back":
        return Stand(Course.UNDECIDED, f"TRITON_DEPLOY_CANARY_NO_DATA is roll_back: {why}")
    return _held(why, seen, policy, withdrawn=True)


def _too_few(seen: Seen, policy: Policy) -> Stand:
    why = f"too few requests: {seen.why}"
    if policy.no_data == "pass" and seen.held_s >= policy.hold_s:
        return _passed(why)
    return _held(why, seen, policy)


def _passed(why: str) -> Stand:
    return Stand(Course.ENDS_UNJUDGED, f"TRITON_DEPLOY_CANARY_NO_DATA is pass: {why}")


def _held(why: str, seen: Seen, policy: Policy, *, withdrawn: bool = False) -> Stand:
    if seen.held_s >= policy.hold_s:
        return Stand(Course.UNDECIDED, f"{why}; nobody decided within {policy.hold_s / 60:g} minutes")
    return Stand(Course.HELD, why, withdrawn)
