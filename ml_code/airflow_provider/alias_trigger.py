"""Airflow's triggerer looks where an alias points: for an MLflow whose webhooks can't be had.

It lies here, not in ``dags/``, because the triggerer imports it by its name, from what is installed.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

SEEN = "version"
"""Where the asset's state keeps the version that was seen last."""
NOT_SET = ""
"""The version of an alias that is not set."""

KNOWN_AS = "ml_code.alias_events.airflow_trigger"
"""Module by which Airflow's database knows the trigger; see ``triggers``."""


class AfterLook(enum.Enum):
    """What follows from a look."""

    NOTHING = enum.auto()
    REMEMBER = enum.auto()
    """Nothing is deployed: at the first look nobody knows whether the alias was moved or what serves was reverted."""
    TELL = enum.auto()


def after_look(seen: str | None, found: str) -> AfterLook:
    """Return what to do.

    Args:
        seen: what the last look found, by whichever triggerer; None before the first.
        found: the version that the alias names now, or ``NOT_SET``.
    """
    if found == seen:
        return AfterLook.NOTHING
    return AfterLook.REMEMBER if seen is None or found == NOT_SET else AfterLook.TELL


class AliasTrigger(BaseEventTrigger):
    """Fires when an alias names another version than before; a restart of the triggerer changes nothing in that.

    Args:
        model: registered model.
        alias: its alias.
        poll_s: pause between two looks, seconds.
    """

    asset_state_store: Any
    """Set by the triggerer (Airflow 3.3)."""

    def __init__(self, model: str, alias: str, poll_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.alias, self.poll_s = model, alias, poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger.serialize."""
        arguments = {"model": self.model, "alias": self.alias, "poll_s": self.poll_s}
        return f"{KNOWN_AS}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look for ever; see BaseTrigger.run."""
        from ..triton_deploy.errors import DeployError

        while True:
            try:
                found = await asyncio.to_thread(self._look)
            except DeployError as error:
                # A move while MLflow is away is seen when it is back.
                self.log.warning("alias %s of %s can't be looked at: %s", self.alias, self.model, error)
            else:
                step = after_look(await self.asset_state_store.aget(SEEN), found)
                if step is AfterLook.TELL:
                    told = {"model": self.model, "alias": self.alias, "version": found}
                    yield TriggerEvent(told)  # type: ignore[no-untyped-call]
                # After the event: who dies in between tells twice, and the second deploy finds nothing to do.
                if step is not AfterLook.NOTHING:
                    await self.asset_state_store.aset(SEEN, found)
            await asyncio.sleep(self.poll_s)

    def _look(self) -> str:
        from ..triton_deploy.clients.mlflow_api import MlflowApi
        from ..triton_deploy.errors import NotFound
        from ..triton_deploy.settings import Settings

        try:
            found = MlflowApi(Settings.from_env()).get(
                "mlflow/registered-models/alias", "model_version", name=self.model, alias=self.alias
            )
        except NotFound:
            return NOT_SET
        return str(found.whole("version"))
