"""The triggers of ``bake_release`` and ``canary_release``: their waits hold no worker slot.

The triggerer imports a trigger by its path from the installed package, not from the folder of the DAGs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ..triton_deploy.deploy.deployer import Deployer
from ..triton_deploy.errors import DeployError
from ..triton_deploy.report.notifications import notify, of_held_canary
from ..triton_deploy.repository import ModelFolder
from ..triton_deploy.rules.writer import to_json
from ..triton_deploy.settings import Settings
from ..triton_deploy.watch.policy import BakePolicy
from ..triton_deploy.watch.release_watch import Watch

KNOWN_AS = "ml_code.triton_deploy.bake.airflow_trigger"
"""Module by which Airflow's database knows the triggers.

The triggerer of this release can import this module too, so that the next release can write its path.
"""


class BakeTrigger(BaseTrigger):
    """Watches a release until there is a verdict.

    The event is the bake's record as JSON. If the release can't be watched, the event holds the ``error``,
    and whether it is ``retryable``.

    The trigger only reads: the triggerer needs the deployer's settings, Prometheus, and read access to the
    model repository. After a restart of the triggerer the bake goes on with the rest of its time.

    Args:
        model: model name.
        generation: generation of the release.
        minutes: length of the bake, from the commit on.
    """

    def __init__(self, model: str, generation: int, minutes: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.generation, self.minutes = model, generation, minutes

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger."""
        arguments = {"model": self.model, "generation": self.generation, "minutes": self.minutes}
        return f"{KNOWN_AS}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See BaseTrigger."""
        try:
            settings = Settings.from_env()
            policy = BakePolicy.of(settings, self.minutes)
            watch = await asyncio.to_thread(Watch.of, settings, self.model, self.generation, policy)
            while (bake := await asyncio.to_thread(watch.look)) is None:
                await asyncio.sleep(policy.interval_s)
            event: str | dict[str, Any] = to_json(bake)
        except DeployError as error:
            event = {"error": str(error), "retryable": error.retryable}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]


class CanaryTrigger(BaseTrigger):
    """Watches a canary until it has ended.

    The event holds the ``error``, empty after a good canary, and whether it is ``retryable``.

    The trigger adds facts to the deployment's record, so the triggerer needs write access to the model
    repository. Without a triggerer the candidate's share ends by itself, and the next triggerer begins the
    step anew.

    Args:
        model: model name.
        deploy_id: id of the deployment.
    """

    def __init__(self, model: str, deploy_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.deploy_id = model, deploy_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger."""
        arguments = {"model": self.model, "deploy_id": self.deploy_id}
        return f"{KNOWN_AS}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See BaseTrigger."""
        event = {"error": "", "retryable": False}
        held_utc = ""
        try:
            settings = Settings.from_env()
            deployer = Deployer(settings)
            while True:
                pause_s = await asyncio.to_thread(deployer.look_at_canary, self.model, self.deploy_id)
                if pause_s is None:
                    break
                if settings.notify.url:
                    held_utc = await asyncio.to_thread(self._tell_held, settings, held_utc)
                await asyncio.sleep(pause_s)
        except DeployError as error:
            event = {"error": str(error), "retryable": error.retryable}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    def _tell_held(self, settings: Settings, told_utc: str) -> str:
        """Notify people when the canary begins to wait; returns the start of the wait, or an empty text.

        Args:
            settings: the webhook.
            told_utc: the start of the wait that the last notification was about, or an empty text.
        """
        folder = ModelFolder.at(settings.repository_root, self.model)
        record = folder.journal.get(self.deploy_id)
        held_utc = record.canary.held_utc if record.canary else ""
        if held_utc and held_utc != told_utc:
            notify(settings, of_held_canary(folder, record, settings.canary.hold_s))
        return held_utc
