"""What a canary is judged by, and who judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .canary_course import CanaryVerdict
from .canary_floor import Counts


@dataclass(frozen=True)
class Judgment:
    """What was seen of a candidate in one look.

    Attributes:
        verdict: how it does.
        why: why, a sentence without its full stop.
        figures: by the name of who saw them (JSON values).
        evidence: what a verdict against the candidate rests on, such as failures: as long as it does not grow, the next bad look sees
            the same thing once more. None where every look sees another thing.
    """

    verdict: CanaryVerdict
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    evidence: float | None = None


@dataclass(frozen=True)
class Watched:
    """What is to be judged: a candidate beside the live version, on the same traffic, at the same time.

    Attributes:
        model: its name.
        candidate: the candidate's version.
        live: the live version.
        mirrored: whether it is mirrored to, or answers clients.
        seconds: for how long, until now.
        exposed_s: how long ago it may have met its first client, in whichever step, seconds.
        outputs: names of the outputs that both have.
    """

    model: str
    candidate: int
    live: int
    mirrored: bool
    seconds: float
    exposed_s: float
    outputs: tuple[str, ...] = ()


Judge = Callable[[Watched], Judgment]
"""Says how a candidate does. Raises Misconfigured or AccessDenied when it can never say, whatever time passes."""

Counter = Callable[[str, int], Counts]
"""Gives what each gateway has counted of a model's version; who can't be asked is left out."""


def nobody(watched: Watched) -> Judgment:
    """Judge without having seen anything: where there is no Prometheus."""
    return Judgment(
        CanaryVerdict.UNMEASURED,
        "TRITON_DEPLOY_PROMETHEUS_URL is not set for the process that watches (in Airflow the triggerer)",
    )


def no_counts(model: str, version: int) -> Counts:
    """Count nothing: where no gateway is named."""
    return {}
