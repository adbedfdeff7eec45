"""The record of a bake: the verdict on a release under live traffic, by the rules in ``bake_rules``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from . import reader
from .reader import DeployId, Generation, Moment, Version


class BakeVerdict(StrEnum):
    """The end of a release's bake."""

    PASSED = "passed"
    """The release was judged, and is good."""
    FAILED = "failed"
    """The release was judged, and is bad."""
    NO_DATA = "no_data"
    """The release could not be judged: too few requests, or no source could be queried."""
    SUPERSEDED = "superseded"
    """Another release has become live, so the verdict no longer matters."""


@dataclass(frozen=True, kw_only=True)
class Bake:
    """The bake of one release.

    Attributes:
        model: public model name.
        generation: the release.
        version: the release's version.
        deploy_id: deployment that committed the release.
        verdict: the verdict.
        reasons: the reasons of the verdict, in sentences.
        looks: number of checks.
        judged: number of checks that saw enough requests for a judgment.
        figures: the last figures of each source, by the source's name.
        began_at_utc: when the release was committed.
        ended_at_utc: when the verdict was given.
        unmeasured: whether there is no data because no source could be queried, not because too few
            requests came.
        uncompared: why the latency was not compared with another version's; empty if it was, or if the
            settings do not ask for it.
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
