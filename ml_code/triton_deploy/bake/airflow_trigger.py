"""The wait of ``bake_release``, in Airflow's triggerer: it holds no worker slot. The only piece here that knows Airflow.

The triggerer imports it by its path, from what is installed, not from the folder of the DAGs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ..records import to_json
from ..settings import Settings
from .policy import BakePolicy
from .watch import Watch


class BakeTrigger(BaseTrigger):
    """Watches a release until there is a verdict; the event is the bake's record as JSON, or why it can't be watched.

    It only reads. The triggerer needs the deployer's settings, Prometheus and the model repository (read-only will do). After a
    restart of the triggerer it goes on with the rest of the time.

    Args:
        model: its name.
        generation: the release.
        minutes: how long, since its commit.
    """

    def __init__(self, model: str, generation: int, minutes: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.generation, self.minutes = model, generation, minutes

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See BaseTrigger."""
        arguments = {"model": self.model, "generation": self.generation, "minutes": self.minutes}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See BaseTrigger."""
        policy = BakePolicy.of(Settings.from_env(), self.minutes)
        watch = await asyncio.to_thread(Watch.of, Settings.from_env(), self.model, self.generation, policy)
        while (bake := await asyncio.to_thread(watch.look)) is None:
            await asyncio.sleep(policy.interval_s)
        yield TriggerEvent(to_json(bake))  # type: ignore[no-untyped-call]
