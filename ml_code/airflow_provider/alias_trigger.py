"""The trigger that polls an alias in MLflow, for a set-up without MLflow's webhooks.

It is not in ``dags/``, because the triggerer imports a trigger by its name from the installed package.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

SEEN = "version"
"""Key of the last seen version in the asset's state."""
NOT_SET = ""
"""The version of an alias that is not set."""

KNOWN_AS = "ml_code.alias_events.airflow_trigger"
"""Module by which Airflow's database knows the trigger; see ``triggers``."""


class AfterLook(enum.Enum):
    """The step that follows a look at the alias."""

    NOTHING = enum.auto()
    REMEMBER = enum.auto()
    """Deploy nothing: the alias is not set, or this is the first look.

    A first look can't tell an alias that was moved from a release that was reverted.
    """
    TELL = enum.auto()


def after_look(seen: str | None, found: str) -> AfterLook:
    """Return the step that follows a look.

    Args:
        seen: the version that the last look found, in this triggerer or in an earlier one; None before the
            first look.
        found: the version that the alias names now, or ``NOT_SET``.
    """
    if found == seen:
        return AfterLook.NOTHING
    return AfterLook.REMEMBER if seen is None or found == NOT_SET else AfterLook.TELL


class AliasTrigger(BaseEventTrigger):
    """Fires when an alias names another version than before, also across a restart of the triggerer.

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
        """Poll without end; see BaseTrigger.run."""
        from ..triton_deploy.errors import DeployError

        while True:
            try:
                found = await asyncio.to_thread(self._look)
            except DeployError as error:
                # The first look after the outage sees a move that happened meanwhile.
                self.log.warning("can't read alias %s of %s: %s", self.alias, self.model, error)
            else:
                step = after_look(await self.asset_state_store.aget(SEEN), found)
                if step is AfterLook.TELL:
                    told = {"model": self.model, "alias": self.alias, "version": found}
                    yield TriggerEvent(told)  # type: ignore[no-untyped-call]
                # Stored after the event: a triggerer that dies in between fires twice, and the second
                # deploy finds nothing to do.
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
