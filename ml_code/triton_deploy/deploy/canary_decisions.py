"""A person's decision on a canary, carried out and told: for the command line and ``decide_canary``."""

from __future__ import annotations

from datetime import UTC, datetime

from ..rules.canary import Decision, left_s
from ..rules.deployment import Deployment
from ..settings import Settings
from .canary_control import CanaryControl

STATUS = "status"
CHOICES = (STATUS, *map(str, Decision))
"""The words that a person may say of a canary; the first only looks."""


def done(
    settings: Settings, model: str, decision: str, *, by: str, reason: str = "", deploy_id: str = ""
) -> tuple[Deployment, list[str]]:
    """Carry a decision out; return the deployment and the sentences for the person, one a line.

    Args:
        settings: see ``Settings``.
        model: public model name.
        decision: one of CHOICES.
        by: the person.
        reason: the reason, or empty.
        deploy_id: the deployment; by default the one that is under way.

    Raises:
        NotFound, InvalidInput, Superseded, StorageFailed: see CanaryControl.
    """
    control = CanaryControl(settings, model)
    if decision == STATUS:
        record = control.under_way(deploy_id)
        return record, list(control.lines(record))
    what = Decision(decision)
    record = control.decide(what, by=by, reason=reason, deploy_id=deploy_id)
    return record, [_said(record, what, settings), *control.lines(record)]


def _said(record: Deployment, what: Decision, settings: Settings) -> str:
    """Say what a decision does, and when."""
    who = f"version {record.version} of {record.model}"
    come = {
        Decision.PAUSE: f"The canary of {who} is paused: its step does not end by itself, and waits "
        f"{settings.canary.hold_minutes:g} minutes at most before it is rolled back.",
        Decision.RESUME: f"The canary of {who} goes on.",
        Decision.PROMOTE: f"The step of the canary of {who} ends at the next look, unless the candidate is bad.",
        Decision.ABORT: f"The canary of {who} is aborted: no client gets it any more, and it is rolled back at the next look.",
    }[what]
    assert record.canary is not None
    if record.canary.step and left_s(record.canary, datetime.now(UTC)) <= 0:
        come += (
            " Nobody watches it at the moment: it is done when somebody goes on, and "
            f"'triton-deploy rollback {record.model} --deploy-id {record.deploy_id}' ends it now."
        )
    return come
