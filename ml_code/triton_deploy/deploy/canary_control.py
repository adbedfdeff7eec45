"""A person's control of a canary that is under way: look at it, pause it, promote it, abort it.

The person's word is a fact in the deployment's journal. So every process that watches finds it at its next
look, and an abort takes the share away although no process watches any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ..errors import InvalidInput, NotFound, Superseded
from ..repository import ModelFolder
from ..rules.canary import (
    MAX_SILENCE_S,
    TESTERS_HEADER,
    Decision,
    is_told,
    is_withdrawn,
    left_s,
    step_of,
    steps_of,
    told,
    waits_for_person,
    watched_s,
    who_told,
)
from ..rules.deployment import Canary, Deployment, State
from ..rules.moments import utc_text
from ..rules.names import check_deploy_id
from ..settings import Settings

log = logging.getLogger(__name__)

TRIES = 20
"""The watch adds a fact every few seconds at most: to come second this many times in a row is a defect."""


class CanaryControl:
    """The canary of one model that is under way.

    Args:
        settings: see ``Settings``.
        model: public model name.
        clock: gives the time, aware.
    """

    def __init__(
        self, settings: Settings, model: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings, self._clock = settings, clock
        self._folder = ModelFolder.at(settings.repository_root, model)

    def under_way(self, deploy_id: str = "") -> Deployment:
        """Return the deployment whose canary is under way.

        Args:
            deploy_id: the deployment; by default the one that has the model's lease.

        Raises:
            NotFound: no canary is under way, or another deployment's is.
        """
        holder, _ = self._folder.lease.last(self._clock())
        record = self._folder.journal.find(holder) if holder else None
        if record is None or record.canary is None or record.state is not State.VERIFIED:
            raise self._none_under_way(record)
        if deploy_id and check_deploy_id(deploy_id) != record.deploy_id:
            raise NotFound(
                f"The canary of {record.model} that is under way is deployment {record.deploy_id}, not {deploy_id}.",
                hint="Nothing was done. Leave --deploy-id out, or correct it.",
            )
        return record

    def decide(self, what: Decision, *, by: str, reason: str = "", deploy_id: str = "") -> Deployment:
        """Record a person's word, for the watch to act on.

        Args:
            what: the word.
            by: the person.
            reason: the reason, or empty.
            deploy_id: see ``under_way``.

        Returns:
            The deployment with that fact.

        Raises:
            NotFound: no canary is under way, or another deployment's is.
            InvalidInput: there is nothing to promote or to resume yet, or earlier code watches the canary
                and would not find the word.
            Superseded: the watch came first each time, or has ended the step that was to be promoted.
            StorageFailed: it can't be written.
        """
        step: int | None = None
        for _ in range(TRIES):
            record = self.under_way(deploy_id)
            assert record.canary is not None
            _refuse_vain(record, record.canary, what)
            if what is Decision.PROMOTE and step not in (None, record.canary.step):
                raise Superseded(
                    f"The step of the canary of {record.model} that was to end has ended by itself in this moment.",
                    hint="Nothing was done. Look where it stands, and say it again if the step that has begun is to end too.",
                )
            step = record.canary.step
            said = replace(record, canary=told(record.canary, what, by, reason, self._clock()))
            try:
                return self._folder.journal.append(said, record)
            except Superseded:
                log.debug("the watch added a fact in this moment: once more")
        raise Superseded(
            f"What was said of the canary of {self._folder.model} could not be recorded: others record faster.",
            hint="Nothing was changed. Say it again.",
        )

    def lines(self, record: Deployment) -> Iterator[str]:
        """Yield the state of a canary, a sentence each.

        Args:
            record: see ``under_way``.
        """
        canary = record.canary
        assert canary is not None
        yield f"{record.model}: version {record.version} beside version {record.base_version}, deployment {record.deploy_id}"
        if not canary.step:
            yield "  it has not begun: the candidate is checked"
            return
        yield from self._of_step(canary)
        yield from self._of_wait(canary)
        for line in canary.unjudged:
            yield f"  not judged: {line}"
        if not 0 < left_s(canary, self._clock()) <= MAX_SILENCE_S:
            yield f"  nobody watches it since {canary.until_utc}: it has no share, until somebody goes on or reconcile rolls it back"
        elif canary.key and not is_told(canary, Decision.ABORT):
            yield f"  testers get it with the header {TESTERS_HEADER}: {canary.key}"

    def _of_step(self, canary: Canary) -> Iterator[str]:
        spent_minutes = watched_s(canary, self._clock()) / 60
        yield (
            f"  step {canary.step} of {len(steps_of(canary))}: {step_of(canary)}, {spent_minutes:.1f} of {canary.step_s / 60:g} minutes"
            + (", then it waits for a person" if waits_for_person(canary) else "")
        )
        if is_withdrawn(canary):
            yield "  no client gets it now"
        judgment = canary.judgment
        if judgment:
            yield f"  judged: {judgment.get('verdict')}: {judgment.get('why')}"

    def _of_wait(self, canary: Canary) -> Iterator[str]:
        if canary.told:
            yield f"  said: {canary.told.get('what')}, by {who_told(canary)} at {canary.told.get('at_utc')}"
        if canary.held_utc:
            until = datetime.fromisoformat(canary.held_utc) + timedelta(seconds=self._settings.canary.hold_s)
            yield f"  it waits since {canary.held_utc}, until {utc_text(until)} at most: {canary.held_for}"

    def _none_under_way(self, record: Deployment | None) -> NotFound:
        model = self._folder.model
        if record is None or record.finished:
            return NotFound(
                f"No canary of {model} is under way.",
                hint=f"Nothing was done. 'triton-deploy deploy {model} --canary 5,25,50' begins one.",
            )
        return NotFound(
            f"No canary of {model} is under way: deployment {record.deploy_id} is {record.state}.",
            hint=f"Nothing was done. 'triton-deploy rollback {model} --deploy-id {record.deploy_id}' undoes what is not committed.",
        )


def _refuse_vain(record: Deployment, canary: Canary, what: Decision) -> None:
    if is_told(canary, Decision.ABORT):
        raise InvalidInput(
            f"The canary of {record.model} was aborted by {who_told(canary)}.",
            hint="It is rolled back at the next look; deploy again.",
        )
    if canary.step and not canary.key:
        raise InvalidInput(
            f"An earlier release of this software watches the canary of {record.model}: it would not find what is said of it.",
            hint=f"Nothing was done. 'triton-deploy rollback {record.model} --deploy-id {record.deploy_id}' ends the canary.",
        )
    if what is Decision.PROMOTE and not canary.step:
        raise InvalidInput(
            f"The canary of {record.model} has not begun: there is no step to end.",
            hint="Nothing was done. Say it again when 'triton-deploy canary status' names a step.",
        )
    if what is Decision.RESUME and not is_told(canary, Decision.PAUSE):
        raise InvalidInput(
            f"The canary of {record.model} is not paused.",
            hint="Nothing was done. 'triton-deploy canary promote' ends a step that waits.",
        )
