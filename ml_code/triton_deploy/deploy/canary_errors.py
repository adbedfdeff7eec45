"""The errors that end a canary: each says what clients get now, and what to do."""

from __future__ import annotations

from ..errors import AnswersDiffer, CanaryUndecided, EndedTriton, NotFound, VerificationFailed
from ..rules.deployment import Pinned


def undecided(version: int, step: str, why: str) -> CanaryUndecided:
    """Return the error of a step that nothing could measure, and that no person decided in time."""
    return CanaryUndecided(
        f"The canary of version {version} ended undecided with {step}: {why}.",
        hint="No client gets it any more, and nothing is known against it. See to what is missing, or use longer steps, larger "
        "shares or a smaller TRITON_DEPLOY_CANARY_MIN_REQUESTS, and deploy again; 'triton-deploy canary promote' takes one "
        "without a verdict.",
    )


def differs(version: int, step: str, why: str) -> AnswersDiffer:
    """Return the error of a shadow that answers otherwise than the live version."""
    return AnswersDiffer(
        f"Version {version} does not answer like the live one with {step}: {why}.",
        hint="No client gets it any more, and nothing is known against it. If its answers are meant to differ, as after a training "
        "on other data, raise TRITON_DEPLOY_SHADOW_MAX_DIFFERENT (1 stops none) and deploy again; else look at the model.",
    )


def did_badly(version: int, step: str, why: str) -> VerificationFailed:
    """Return the error of a candidate that does worse than the live version."""
    return VerificationFailed(
        f"Version {version} did not do well with {step}: {why}.",
        hint="No client gets it any more. Look at the model's figures, and register a repaired version.",
    )


def ended(where: str, model: str, pinned: Pinned, why: str) -> EndedTriton:
    """Return the error of a candidate whose Triton ended over one of its requests.

    Args:
        where: the Triton, as a sentence begins with it.
        model: public model name.
        pinned: the candidate.
        why: the evidence.
    """
    return EndedTriton(
        f"{where} ended while it had a request of version {pinned.version}: {why}.",
        hint="No client gets it any more, and it is suspected and refused from now on. A restart by hand at that moment looks the "
        f"same: if it was one, take the model again with 'triton-deploy deploy {model} --alias {pinned.alias} --force'. "
        "Else see that Triton's log.",
    )


def lost(where: str, model: str, pinned: Pinned, why: str) -> NotFound:
    """Return the error of a candidate that its Triton has lost; see ``ended`` for the arguments."""
    return NotFound(
        f"{where} does not have version {pinned.version} of {model} any more: {why}.",
        hint="It was restarted, or somebody unloaded the version; deploy again.",
    )
