"""The evidence on a canary's candidate, and the types of its judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .canary_course import CanaryVerdict
from .canary_floor import Counts


@dataclass(frozen=True)
class Judgment:
    """The judgment of one check.

    Attributes:
        verdict: the verdict on the candidate.
        why: its reason, a sentence without its full stop.
        figures: figures by the name of their source (JSON values).
        evidence: size of the evidence for a bad verdict, such as failures. While it does not grow, the
            next bad check only repeats this one. None if every check has evidence of its own.
    """

    verdict: CanaryVerdict
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    evidence: float | None = None


@dataclass(frozen=True)
class Watched:
    """A candidate under judgment, beside the live version, on the same traffic at the same time.

    Attributes:
        model: public model name.
        candidate: the candidate's version.
        live: the live version.
        mirrored: whether requests are mirrored to the candidate; else it answers clients.
        seconds: length of the time until now that is judged, seconds.
        exposed_s: how long ago the candidate may have met its first client, in any step, seconds.
        outputs: names of the outputs that both versions have.
    """

    model: str
    candidate: int
    live: int
    mirrored: bool
    seconds: float
    exposed_s: float
    outputs: tuple[str, ...] = ()


Judge = Callable[[Watched], Judgment]
"""Judges a candidate. Raises Misconfigured or AccessDenied if it will never be able to judge."""

Counter = Callable[[str, int], Counts]
"""Returns each gateway's counts of a model's version; a gateway that can't be asked is left out."""


def nobody(watched: Watched) -> Judgment:
    """Judge without a source of measurements: no Prometheus is set."""
    return Judgment(
        CanaryVerdict.UNMEASURED,
        "TRITON_DEPLOY_PROMETHEUS_URL is not set for the process that watches (in Airflow the triggerer)",
    )


def no_counts(model: str, version: int) -> Counts:
    """Return no counts: no gateway is named in the settings."""
    return {}
