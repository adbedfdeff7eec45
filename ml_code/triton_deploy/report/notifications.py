"""Notifications of failures, rollbacks and reverts: a webhook gets a sentence for a chat, or facts as JSON.

Best effort: a notification that can't be sent is logged, and changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from ..clients.http import explanation, new_session, send
from ..errors import DeployError
from ..errors.texts import for_chat, printable
from ..repository import ModelFolder
from ..rules.bake_record import BakeVerdict
from ..rules.deployment import Deployment, State
from ..rules.release import Release
from ..settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Notification:
    """An event that people have to know of.

    Attributes:
        event: ``rolled_back``, ``rollback_failed``, ``reverted``, ``canary_held``, ``bake_failed``,
            ``no_data`` or ``refused``.
        model: name of the model; empty if the run names none.
        text: the event and the live version, in sentences.
        deploy_id: the deployment; empty if no deployment is concerned.
        version: the version that is concerned, or None.
        live_version: the version that is live now, or None.
        run: the run that acted, as the orchestrator names it.
    """

    event: str
    model: str
    text: str
    deploy_id: str = ""
    version: int | None = None
    live_version: int | None = None
    run: str = ""


def notify(settings: Settings, notification: Notification) -> bool:
    """Send a notification to the webhook of the settings.

    Args:
        settings: address and format of the webhook; without an address nothing is sent.
        notification: the event.

    Returns:
        Whether the webhook accepted it.
    """
    if not settings.notify.url:
        return False
    text = notification.text + (f" ({notification.run})" if notification.run else "")
    body: dict[str, Any] = {"text": for_chat(text)}
    if settings.notify.format == "json":
        body = asdict(notification) | {"text": printable(text)}
    try:
        response = send(
            new_session(pool_size=1),
            "POST",
            settings.notify.url,
            timeout_s=settings.notify.timeout_s,
            # The address is a secret: everyone who knows it can write there.
            server="The webhook of TRITON_DEPLOY_NOTIFY_URL",
            hint="Check TRITON_DEPLOY_NOTIFY_URL.",
            body=body,
        )
    except DeployError as error:
        log.warning("no notification was sent: %s", error)
        return False
    taken = 200 <= response.status_code < 300
    if not taken:
        log.warning(
            "no notification was sent: the webhook answers %s: %s",
            response.status_code,
            explanation(response),
        )
    return taken


def of_rollback(folder: ModelFolder, deploy_id: str, run: str, *, done: bool) -> Notification | None:
    """Return the notification of a rollback, complete or failed.

    Args:
        folder: the model's place in the repository.
        deploy_id: the deployment that was to be rolled back.
        run: the run that rolled back.
        done: whether the rollback completed; otherwise it failed.

    Returns:
        The notification; None if the deployment had not begun, or was committed after all.

    Raises:
        StorageFailed: the repository can't be read.
    """
    record, live = folder.journal.find(deploy_id), folder.releases.latest()
    if record is None or record.state is State.COMMITTED:
        return None
    if done:
        event, text = (
            "rolled_back",
            f"Version {record.version} of {folder.model} was rolled back: {_cause(record)}",
        )
    else:
        event = "rollback_failed"
        text = (
            f"The rollback of version {record.version} of {folder.model} did not complete; reconcile_triton repeats it, "
            f"sooner: triton-deploy rollback {folder.model} --deploy-id {deploy_id}. It was to be undone because: {_cause(record)}"
        )
    return Notification(
        event=event,
        model=folder.model,
        text=f"{text} {_live_version(folder.model, live)}",
        deploy_id=deploy_id,
        version=record.version,
        live_version=live.active_version if live else None,
        run=run,
    )


def of_revert(folder: ModelFolder, run: str) -> Notification | None:
    """Return the notification of a revert, by the release that it made; None if no version is live.

    Args:
        folder: the model's place in the repository.
        run: the run that reverted.

    Raises:
        StorageFailed: the repository can't be read.
    """
    live = folder.releases.latest()
    if live is None:
        return None
    return Notification(
        event="reverted",
        model=folder.model,
        text=f"Version {live.previous_version} of {folder.model} was taken back: {live.reason.rstrip('.')}. "
        + _live_version(folder.model, live),
        deploy_id=live.deploy_id,
        version=live.previous_version,
        live_version=live.active_version,
        run=run,
    )


def of_held_canary(folder: ModelFolder, record: Deployment, hold_s: float) -> Notification:
    """Return the notification of a held canary, so that a person decides in time.

    Args:
        folder: the model's place in the repository.
        record: the deployment with the held canary.
        hold_s: longest wait for a decision, seconds.

    Raises:
        StorageFailed: the repository can't be read.
    """
    canary, live = record.canary, folder.releases.latest()
    assert canary is not None
    return Notification(
        event="canary_held",
        model=folder.model,
        text=f"The canary of version {record.version} of {folder.model} waits, {hold_s / 60:g} minutes at most, because {canary.held_for}. "
        f"'triton-deploy canary promote {folder.model}' ends the step, 'triton-deploy canary abort {folder.model}' the canary; in Airflow: "
        f"decide_canary. {_live_version(folder.model, live)}",
        deploy_id=record.deploy_id,
        version=record.version,
        live_version=live.active_version if live else None,
        run=record.actor,
    )


def of_refusal(model: str, why: str, run: str) -> Notification:
    """Return the notification of a run that was refused before it changed anything.

    Args:
        model: the model of the run; empty if the run names none.
        why: the reason, in sentences.
        run: the run.
    """
    return Notification(event="refused", model=model, text=f"A run was refused. {why}", run=run)


def of_bake(folder: ModelFolder, deploy_id: str, run: str) -> Notification | None:
    """Return the notification of a bake that failed or had no data; None if it passed or goes on.

    Args:
        folder: the model's place in the repository.
        deploy_id: the deployment that committed the release.
        run: the run that watched the release.

    Raises:
        StorageFailed: the repository can't be read.
    """
    record = folder.journal.find(deploy_id)
    release = folder.releases.of_deployment(deploy_id, record.generation) if record else None
    bake = folder.bakes.find(release.generation) if release else None
    if bake is None or bake.verdict not in (BakeVerdict.FAILED, BakeVerdict.NO_DATA):
        return None
    failed = bake.verdict is BakeVerdict.FAILED
    what = "failed its bake" if failed else "could not be judged"
    live = folder.releases.latest()
    return Notification(
        event="bake_failed" if failed else "no_data",
        model=folder.model,
        text=f"Version {bake.version} of {folder.model} (release {bake.generation}) {what}: "
        f"{'; '.join(bake.reasons)}. {_live_version(folder.model, live)}",
        deploy_id=deploy_id,
        version=bake.version,
        live_version=live.active_version if live else None,
        run=run,
    )


def _cause(record: Deployment) -> str:
    if record.failure is None:
        return "somebody asked for it."
    return f"{record.failure.step}: {record.failure.error.rstrip('.')}."


def _live_version(model: str, live: Release | None) -> str:
    if live is None:
        return f"No version of {model} is live."
    return f"Version {live.active_version} is live (release {live.generation})."
