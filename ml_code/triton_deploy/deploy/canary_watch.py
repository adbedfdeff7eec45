"""A canary under watch: each look begins a step, judges it, or ends the canary.

Between looks the deployment's record holds everything.
"""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import replace
from datetime import datetime, timedelta

from ..errors import (
    CanaryAborted,
    SchemaChanged,
    Superseded,
)
from ..rules.canary import (
    Decision,
    begun,
    held_s,
    is_last,
    is_told,
    is_withdrawn,
    left_s,
    longest_s,
    prolonged,
    step_of,
    waits_for_person,
    watched_s,
    who_told,
    withdrawn,
)
from ..rules.canary_course import PATIENCE, CanaryVerdict, Course, Policy, Seen, Stand, stand
from ..rules.canary_evidence import Counter, Judge, Judgment, Watched, no_counts
from ..rules.canary_floor import baseline, complaint, since
from ..rules.deployment import Canary, State
from ..rules.moments import utc_text
from ..rules.release import Release
from ..rules.schema import Schema, breaking_offer
from ..settings import Settings
from . import canary_errors
from .step import RunningStep

log = logging.getLogger(__name__)

KEY_BYTES = 18
"""Random bytes of a deployment's secret."""

SOON_S = 0.5
"""Pause after a look during which a person said something, seconds."""


class CanaryWatch:
    """Watches the canary of one deployment.

    Args:
        step: the step at work, of a deployment that has a canary.
        judge: judges the candidate.
        settings: intervals, and the fate of a candidate without data.
        counter: gives the gateways' own counts.
    """

    def __init__(
        self, step: RunningStep, judge: Judge, settings: Settings, counter: Counter = no_counts
    ) -> None:
        assert step.record.canary is not None
        self._step = step
        self._canary: Canary = step.record.canary
        self._judge = judge
        self._settings = settings
        self._counter = counter

    def look(self, now: datetime) -> float | None:
        """Begin, judge or end a step, whichever is due; see Deployer.look_at_canary."""
        try:
            return self._look(now)
        except Superseded:
            if self._was_told_meanwhile():
                return SOON_S
            raise

    def _look(self, now: datetime) -> float | None:
        live = self._step.folder.releases.latest()
        if live is None:
            log.info("nothing is live that could share its clients with the candidate: no canary")
            self._step.reached()
            return None
        self._step.refuse_outdated()
        self._refuse_aborted()
        if not self._canary.step:
            self._refuse_other_schema(live)
            return self._begin(1, now)
        left = left_s(self._canary, now)
        if self._step.record.failure is not None or left <= 0:
            log.warning(
                "no process watched the canary for %.0f s, so its share had ended: the step begins anew",
                self._settings.canary.silence_s - left,
            )
            return self._begin(self._canary.step, now)
        return self._go_on(live, now)

    def _was_told_meanwhile(self) -> bool:
        """Whether the fact that came before ours is a person's word."""
        last = self._step.folder.journal.find(self._step.record.deploy_id)
        before = self._step.record.canary
        return bool(
            last
            and last.canary
            and before
            and last.state is self._step.record.state
            and last.canary.told != before.told
        )

    def _begin(self, number: int, now: datetime) -> float:
        canary, version = self._canary, self._step.record.version
        if not canary.triton:
            # The same Triton for all steps: a candidate that ends its Triton ends only that one.
            serving = self._step.serving
            canary = replace(canary, triton=serving.first_with(version), tritons=serving.addresses)
        if not canary.step:
            canary = replace(canary, counted=self._counter(self._step.folder.model, version))
        canary = replace(canary, key=canary.key or secrets.token_urlsafe(KEY_BYTES))
        canary = begun(canary, number, now, self._settings.canary.silence_s)
        self._step.note(canary=canary)
        log.info(
            "canary of version %s on Triton at %s: %s for %g s%s",
            version,
            canary.triton,
            step_of(canary),
            canary.step_s,
            self._end_of_step(canary),
        )
        return self._pause_s(0)

    def _end_of_step(self, canary: Canary) -> str:
        """Name the conditions beside the time that end a step."""
        if waits_for_person(canary):
            return f", then until 'triton-deploy canary promote {self._step.folder.model}'"
        return (
            f" and until {self._settings.canary_requests} requests were seen, "
            f"{self._settings.canary.hold_minutes:g} minutes longer at most"
        )

    def _go_on(self, live: Release, now: datetime) -> float | None:
        judgment, counted = self._judged(live, now)
        spent_s = watched_s(self._canary, now)
        over = spent_s >= self._canary.step_s
        self._refuse_lost(judgment, now, ends=over or is_told(self._canary, Decision.PROMOTE))
        noted = self._noted(judgment, now)
        found = stand(self._seen(judgment, noted, over=over, now=now), _policy(self._settings))
        if self._exposed_s(now) > longest_s(self._settings.canary.hold_s) and found.course is Course.HELD:
            found = Stand(Course.UNDECIDED, f"the canary takes longer than any may: {found.why}")
        self._refuse_bad(judgment, found)
        if is_withdrawn(self._canary) and judgment.verdict is not CanaryVerdict.UNMEASURED:
            log.info(
                "the canary of version %s is measured again: the step begins anew", self._step.record.version
            )
            return self._begin(self._canary.step, now)
        if found.course in (Course.GOES_ON, Course.HELD):
            # The gateways' counts are a measurement as well: the candidate keeps its share.
            self._wait(noted, replace(found, withdrawn=found.withdrawn and not counted), now)
            return self._pause_s(spent_s)
        return self._end_step(noted, judgment, found, now)

    def _judged(self, live: Release, now: datetime) -> tuple[Judgment, bool]:
        """Return the judgment of the candidate, and whether the gateways gave counts of their own."""
        model, version = self._step.folder.model, self._step.record.version
        counts = self._counter(model, version)
        self._canary = replace(self._canary, counted=baseline(self._canary.counted, counts))
        grown = since(self._canary.counted, counts)
        found = complaint(grown, self._settings.bake.max_failure_ratio)
        if found is not None:
            failures = sum(count for name, count in grown.items() if name.endswith(("/failed", "/timeout")))
            return Judgment(*found, figures={"gateways": dict(grown)}, evidence=failures), True
        watched = Watched(
            model,
            version,
            live.active_version,
            step_of(self._canary).mirrored,
            watched_s(self._canary, now),
            self._exposed_s(now),
            self._outputs(),
        )
        return self._judge(watched), bool(counts)

    def _noted(self, judgment: Judgment, now: datetime) -> Canary:
        """Return the canary with this look's judgment."""
        before = self._canary.judgment
        bad = before.get("bad_looks", 0)
        if judgment.verdict not in (CanaryVerdict.FAIL, CanaryVerdict.DIFFERS):
            bad = 0
        elif not bad or judgment.evidence is None or judgment.evidence >= before.get("evidence", 0) + 0.5:
            bad += 1
        unmeasured = (
            before.get("unmeasured_looks", 0) + 1 if judgment.verdict is CanaryVerdict.UNMEASURED else 0
        )
        return prolonged(
            self._canary,
            now,
            self._settings.canary.silence_s,
            verdict=judgment.verdict,
            why=judgment.why,
            bad_looks=bad,
            evidence=judgment.evidence or 0,
            unmeasured_looks=min(unmeasured, PATIENCE),
            # As the record will be read again: a record that differs counts as another process's.
            figures=json.loads(json.dumps(judgment.figures)),
        )

    def _seen(self, judgment: Judgment, noted: Canary, *, over: bool, now: datetime) -> Seen:
        canary = self._canary
        return Seen(
            verdict=judgment.verdict,
            why=judgment.why,
            over=over,
            testers_alone=not step_of(canary).percent,
            waits=waits_for_person(canary),
            paused_by=who_told(canary) if is_told(canary, Decision.PAUSE) else "",
            promoted_by=who_told(canary) if is_told(canary, Decision.PROMOTE) else "",
            bad_looks=noted.judgment["bad_looks"],
            unmeasured_looks=noted.judgment["unmeasured_looks"],
            held_s=held_s(canary, now),
        )

    def _wait(self, noted: Canary, found: Stand, now: datetime) -> None:
        """Record a change, or the sign of life that is due, and log the beginning of a wait."""
        held = found.course is Course.HELD
        if held and not noted.held_utc:
            self._tell_held(found, now)
        noted = replace(
            noted,
            held_utc=(noted.held_utc or utc_text(now)) if held else "",
            held_for=found.why if held else "",
        )
        if found.withdrawn:
            noted = withdrawn(noted)
        before = self._step.record.canary
        assert before is not None
        due = left_s(before, now) < self._settings.canary.silence_s * 2 / 3
        if due or _told_apart(noted) != _told_apart(before):
            self._step.note(canary=noted)

    def _tell_held(self, found: Stand, now: datetime) -> None:
        model, until = self._step.folder.model, now + timedelta(seconds=self._settings.canary.hold_s)
        log.warning(
            "canary of version %s, %s: it waits until %s at most, because %s. Then it is %s. 'triton-deploy canary promote %s' ends the "
            "step now, 'triton-deploy canary abort %s' the canary.",
            self._step.record.version,
            step_of(self._canary),
            utc_text(until),
            found.why,
            "rolled back"
            if self._settings.canary.no_data != "pass" or found.withdrawn
            else "ended or rolled back",
            model,
            model,
        )

    def _end_step(self, noted: Canary, judgment: Judgment, found: Stand, now: datetime) -> float | None:
        step, unjudged = step_of(noted), found.course is Course.ENDS_UNJUDGED
        tell = log.warning if unjudged else log.info
        tell(
            "canary of version %s, %s: %s",
            self._step.record.version,
            step,
            f"it was not judged: {found.why}" if unjudged else f"{judgment.verdict}: {judgment.why}",
        )
        noted = replace(noted, told={}, held_utc="", held_for="")
        if unjudged:
            noted = replace(noted, unjudged=(*noted.unjudged, f"{step}: {found.why}"))
        if not is_last(noted):
            self._step.note(canary=noted)
            self._canary = noted
            return self._begin(noted.step + 1, now)
        # The candidate keeps its share until the commit gives it all requests: no client goes back and forth.
        self._step.reached(canary=noted)
        return None

    @property
    def _was_gone(self) -> bool:
        return bool(self._canary.judgment.get("verdict") == CanaryVerdict.GONE)

    def _exposed_s(self, now: datetime) -> float:
        """Return for how long clients may have met the candidate, seconds, steps that began anew included."""
        return (now - datetime.fromisoformat(self._step.record.times_utc[State.VERIFIED])).total_seconds()

    def _outputs(self) -> tuple[str, ...]:
        manifest = self._step.folder.versions.manifest(self._step.record.version)
        return tuple(one.name for one in Schema.from_dict(manifest.schema).outputs) if manifest else ()

    def _refuse_aborted(self) -> None:
        if is_told(self._canary, Decision.ABORT):
            raise CanaryAborted(
                f"{who_told(self._canary)} aborted the canary of version {self._step.record.version}.",
                hint="No client gets it any more, and nothing is known against it: deploy it again when you want it.",
            )

    def _refuse_bad(self, judgment: Judgment, found: Stand) -> None:
        """Raise the error of a step that does not end well; see ``canary_course.Course``."""
        version, step = self._step.record.version, str(step_of(self._canary))
        if found.course is Course.UNDECIDED:
            raise canary_errors.undecided(version, step, found.why)
        if found.course is not Course.BAD:
            return
        if judgment.verdict is CanaryVerdict.DIFFERS:
            raise canary_errors.differs(version, step, found.why)
        raise canary_errors.did_badly(version, step, found.why)

    def _refuse_lost(self, judgment: Judgment, now: datetime, *, ends: bool) -> None:
        """Raise EndedTriton when the candidate's Triton ended, and NotFound when that Triton has lost it.

        A lost candidate gets one more look: the gateway whose request ended the Triton may be scraped last.
        """
        model, pinned = self._step.folder.model, self._step.record.pinned
        where = f"Triton at {self._canary.triton}" if self._canary.triton else "A Triton"
        if judgment.verdict is CanaryVerdict.ENDED:
            self._step.ended = {self._canary.triton: utc_text(now)} if self._canary.triton else {}
            raise canary_errors.ended(where, model, pinned, judgment.why)
        if judgment.verdict is CanaryVerdict.GONE and (self._was_gone or ends):
            raise canary_errors.lost(where, model, pinned, judgment.why)

    def _pause_s(self, spent_s: float) -> float:
        pause_s = min(self._settings.canary.interval_s, self._settings.canary.silence_s / 3)
        rest_s = self._canary.step_s - spent_s
        return min(pause_s, rest_s) if rest_s > 0 else pause_s

    def _refuse_other_schema(self, live: Release) -> None:
        old = self._step.deployments.last.manifest_of(live)
        if old is None:
            # Without its files the inputs that its clients send are not known.
            return
        new = self._step.folder.versions.require(self._step.record.version)
        changes = breaking_offer(old.offer, new.offer)
        if changes:
            raise SchemaChanged(
                f"Clients of version {live.active_version} can't be shared with this one: {'; '.join(changes)}.",
                hint="Deploy it without a canary.",
            )


def _told_apart(canary: Canary) -> tuple[object, ...]:
    """Return the parts of a canary that are written at once; the others wait for the next sign of life."""
    judgment = canary.judgment
    looks = judgment.get("bad_looks", 0), judgment.get("unmeasured_looks", 0)
    gone = judgment.get("verdict") == CanaryVerdict.GONE
    return (looks, gone, canary.held_utc, canary.share_percent, canary.mirrored_percent, canary.counted)


def _policy(settings: Settings) -> Policy:
    return Policy(
        no_data=settings.canary.no_data,
        bad_looks=settings.bake.bad_looks,
        hold_s=settings.canary.hold_s,
    )
