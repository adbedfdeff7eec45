"""A canary under watch: each look begins a step, judges it, or ends the canary; what holds in between is in the record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from .canary import begun, is_last, left_s, prolonged, step_of, watched_s
from .errors import EndedTriton, NotFound, SchemaChanged, VerificationFailed
from .records import Canary, Release, State, utc_text
from .schema import Schema, breaking_changes
from .settings import Settings
from .step import Step

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """How a candidate does."""

    PASS = "pass"
    FAIL = "fail"
    NO_DATA = "no_data"
    """Too few requests were seen to say."""
    ENDED = "ended"
    """The connection to it ended while its Triton had a request: once is enough."""
    GONE = "gone"
    """The Triton on which it meets clients does not have it any more, or can't be reached."""


@dataclass(frozen=True)
class Judgment:
    """What was seen of a candidate in one look: the verdict, why, and figures by the name of who saw them (JSON values)."""

    verdict: Verdict
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)


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
    """

    model: str
    candidate: int
    live: int
    mirrored: bool
    seconds: float
    exposed_s: float


Judge = Callable[[Watched], Judgment]


def nobody(watched: Watched) -> Judgment:
    """Judge without having seen anything: where there is no Prometheus."""
    return Judgment(Verdict.NO_DATA, "TRITON_DEPLOY_PROMETHEUS_URL is not set, so nobody measures")


class CanaryWatch:
    """Watches the canary of one deployment.

    Args:
        step: the step at work, of a deployment that has a canary.
        judge: says how the candidate does.
        settings: intervals, and what no data comes to.
    """

    def __init__(self, step: Step, judge: Judge, settings: Settings) -> None:
        assert step.record.canary is not None
        self._step = step
        self._canary: Canary = step.record.canary
        self._judge = judge
        self._settings = settings

    def look(self, now: datetime) -> float | None:
        """Do what is due; see Deployer.look_at_canary."""
        live = self._step.folder.releases.latest()
        if live is None:
            log.info("nothing is live that could share its clients with the candidate: no canary")
            self._step.reached()
            return None
        self._step.refuse_outdated()
        if not self._canary.step:
            self._refuse_other_schema(live)
            return self._begin(1, now)
        if self._step.record.failure is not None or left_s(self._canary, now) <= 0:
            log.warning("nobody watched the canary, so its share had ended: the step begins anew")
            return self._begin(self._canary.step, now)
        return self._go_on(live, now)

    def _begin(self, number: int, now: datetime) -> float:
        canary, version = self._canary, self._step.record.version
        if not canary.triton:
            # One for all steps: a candidate that ends its Triton takes away one of them.
            serving = self._step.serving
            canary = replace(canary, triton=serving.first_with(version), tritons=serving.addresses)
        canary = begun(canary, number, now, self._settings.canary_silence_s)
        self._step.note(canary=canary)
        log.info(
            "canary of version %s on Triton at %s: %s for %g s",
            version,
            canary.triton,
            step_of(canary),
            canary.step_s,
        )
        return self._pause_s(0)

    def _go_on(self, live: Release, now: datetime) -> float | None:
        spent_s = watched_s(self._canary, now)
        step, version = step_of(self._canary), self._step.record.version
        judgment = self._judge(
            Watched(
                self._step.folder.model,
                version,
                live.active_version,
                step.mirrored,
                spent_s,
                self._exposed_s(now),
            )
        )
        ends = spent_s >= self._canary.step_s
        self._refuse_lost(judgment, now, ends=ends)
        bad_looks = self._canary.judgment.get("bad_looks", 0) + 1 if judgment.verdict is Verdict.FAIL else 0
        if bad_looks >= (1 if ends else self._settings.bake_bad_looks) or (ends and self._is_held(judgment)):
            raise VerificationFailed(
                f"Version {version} did not do well with {step}: {judgment.why}.",
                hint="No client gets it any more. Look at the model's figures, and register a repaired version.",
            )
        noted = prolonged(
            self._canary,
            now,
            self._settings.canary_silence_s,
            verdict=judgment.verdict,
            why=judgment.why,
            bad_looks=bad_looks,
            figures=dict(judgment.figures),
        )
        if not ends:
            unlike = bad_looks != self._canary.judgment.get("bad_looks", 0) or self._was_gone != (
                judgment.verdict is Verdict.GONE
            )
            if unlike or left_s(self._canary, now) < self._settings.canary_silence_s * 2 / 3:
                self._step.note(canary=noted)
            return self._pause_s(spent_s)
        tell = log.warning if judgment.verdict is Verdict.NO_DATA else log.info
        tell("canary of version %s, %s: %s: %s", version, step, judgment.verdict, judgment.why)
        if not is_last(self._canary):
            self._step.note(canary=noted)
            return self._begin(self._canary.step + 1, now)
        # The share stays until the commit, which gives it everything: no client goes forth and back.
        self._step.reached(canary=noted)
        return None

    @property
    def _was_gone(self) -> bool:
        return bool(self._canary.judgment.get("verdict") == Verdict.GONE)

    def _exposed_s(self, now: datetime) -> float:
        """Return since when clients may have met it, seconds: also those of a step that begins anew."""
        return (now - datetime.fromisoformat(self._step.record.times_utc[State.VERIFIED])).total_seconds()

    def _refuse_lost(self, judgment: Judgment, now: datetime, *, ends: bool) -> None:
        """Raise EndedTriton for a candidate whose Triton ended, and NotFound for one that its Triton has lost.

        The second has a look more: the gateway whose request ended the Triton may be the one that is scraped last.
        """
        model, pinned = self._step.folder.model, self._step.record.pinned
        where = f"Triton at {self._canary.triton}" if self._canary.triton else "A Triton"
        if judgment.verdict is Verdict.ENDED:
            self._step.ended = {self._canary.triton: utc_text(now)} if self._canary.triton else {}
            raise EndedTriton(
                f"{where} ended while it had a request of version {pinned.version}: {judgment.why}.",
                hint="No client gets it any more, and it is suspected and refused from now on. A restart by hand at that moment looks the "
                f"same: if it was one, take the model again with 'triton-deploy deploy {model} --alias {pinned.alias} --force'. "
                "Else see that Triton's log.",
            )
        if judgment.verdict is Verdict.GONE and (self._was_gone or ends):
            raise NotFound(
                f"{where} does not have version {pinned.version} of {model} any more: {judgment.why}.",
                hint="It was restarted, or somebody unloaded the version; deploy again.",
            )

    def _is_held(self, judgment: Judgment) -> bool:
        """Whether a step is not to pass of which too little was seen. Nothing is committed: to hold is to roll back."""
        return judgment.verdict is Verdict.NO_DATA and self._settings.bake_no_data != "pass"

    def _pause_s(self, spent_s: float) -> float:
        settings = self._settings
        return min(settings.canary_interval_s, settings.canary_silence_s / 3, self._canary.step_s - spent_s)

    def _refuse_other_schema(self, live: Release) -> None:
        old = self._step.settlement.manifest_of(live)
        if old is None:
            # Nobody knows any more what its clients send.
            return
        new = self._step.folder.versions.need(self._step.record.version)
        changes = breaking_changes(Schema.from_dict(old.schema), Schema.from_dict(new.schema))
        if changes:
            raise SchemaChanged(
                f"Clients of version {live.active_version} can't be shared with this one: {'; '.join(changes)}.",
                hint="Deploy it without a canary.",
            )
