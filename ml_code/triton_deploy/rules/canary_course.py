"""Decides after each check of a canary whether its step goes on, waits, ends, or ends the deploy.

Pure rules: standard library only, no I/O, time is an argument. A step ends by its duration and a verdict:
without evidence there is no commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PATIENCE = 3
"""Consecutive checks without a measurement that count as none; a missed scrape or a restart of Prometheus
takes fewer."""


class CanaryVerdict(StrEnum):
    """The verdict of one check on a candidate."""

    PASS = "pass"
    FAIL = "fail"
    DIFFERS = "differs"
    """The candidate's answers differ from the live version's; it is not known which are right."""
    NO_DATA = "no_data"
    """The sources saw too few requests for a verdict."""
    UNMEASURED = "unmeasured"
    """No source of measurements could be queried."""
    ENDED = "ended"
    """A Triton's connection ended during a request to the candidate: one time is enough."""
    GONE = "gone"
    """The Triton on which the candidate meets clients has lost it, or can't be reached."""


BAD = frozenset((CanaryVerdict.FAIL, CanaryVerdict.DIFFERS))
"""Verdicts against the candidate that count only after several checks in a row."""


class Course(StrEnum):
    """The course of a step after a check."""

    GOES_ON = "goes_on"
    HELD = "held"
    """The step's duration is over, and it waits for requests, a measurement or a person."""
    ENDS_WELL = "ends_well"
    ENDS_UNJUDGED = "ends_unjudged"
    """The step ends without a verdict, because a person or the settings ask for that."""
    BAD = "bad"
    UNDECIDED = "undecided"
    """The step has waited long enough: the deployment is rolled back, and the model is not blamed."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The facts of a step at one check.

    Attributes:
        verdict: the verdict of this check.
        why: the reason of the verdict.
        over: whether the step's duration is over.
        testers_alone: whether no client gets the candidate in this step.
        waits: whether only a person ends the step.
        paused_by: the person that paused the step, or empty.
        promoted_by: the person that wants the step to end now, or empty.
        bad_looks: consecutive bad checks, this one included.
        unmeasured_looks: consecutive checks without a measurement, this one included.
        held_s: how long the step has waited beyond its duration, seconds.
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
    """The operator's settings.

    Attributes:
        no_data: ``hold``, ``pass`` or ``roll_back``.
        bad_looks: consecutive bad checks that end the deploy before the step's end.
        hold_s: longest wait of a step beyond its duration, seconds.
    """

    no_data: str = "hold"
    bad_looks: int = 2
    hold_s: float = 3600.0


@dataclass(frozen=True)
class Stand:
    """The course of a step, with its reason.

    Attributes:
        course: the course.
        why: why the step is held, unjudged, bad or undecided, a sentence without its full stop; empty
            otherwise.
        withdrawn: whether the candidate gets no share while the step waits.
    """

    course: Course
    why: str = ""
    withdrawn: bool = False


def stand(seen: Seen, policy: Policy) -> Stand:
    """Return the course of a step after a check.

    The watcher itself refuses a candidate that is ``ENDED`` or ``GONE``.

    Args:
        seen: the facts of the step.
        policy: the operator's settings.
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
