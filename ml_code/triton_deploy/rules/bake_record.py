"""The record of a bake: how a release did on live traffic. The rules that judge it are in ``bake_rules``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from . import reader
from .reader import DeployId, Generation, Moment, Version


class BakeVerdict(StrEnum):
    """How the bake of a release ended."""

    PASSED = "passed"
    """It was judged, and is good."""
    FAILED = "failed"
    """It was judged, and is bad."""
    NO_DATA = "no_data"
    """It could not be judged: too little traffic, or nobody who saw it could be asked."""
    SUPERSEDED = "superseded"
    """Another release is live meanwhile: this one's bake is nobody's concern."""


@dataclass(frozen=True, kw_only=True)
class Bake:
    """How a release did on live traffic.

    Attributes:
        model: public model name.
        generation: the release.
        version: its version.
        deploy_id: deployment that committed it.
        verdict: how it ended.
        reasons: why, in sentences.
        looks: how often it was looked at.
        judged: how many of the looks saw enough to judge by.
        figures: what each source said last, by its name.
        began_at_utc: when its release was committed.
        ended_at_utc: when the verdict was given.
        uncompared: why its latency was not compared with another version's; empty when it was, or nobody wanted it.
        unmeasured: nothing is known because whoever measures could not be asked, not because too few requests came.
    """

    model: str
    generation: Generation
    version: Version
    deploy_id: DeployId
    verdict: BakeVerdict
    reasons: tuple[str, ...]
    looks: int
    judged: int
    figures: Mapping[str, Any]
    began_at_utc: Moment
    ended_at_utc: Moment
    unmeasured: bool = False
    uncompared: str = ""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record back; raises ValueError when ``text`` is not one."""
        return reader.decode(text, cls)
