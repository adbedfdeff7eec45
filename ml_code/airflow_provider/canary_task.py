"""The task in which a candidate shares in the clients' traffic, before its commit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from ..triton_deploy.rules.canary import longest_s
from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of, failure_in, no_vain_retries

MARGIN = timedelta(hours=4)
"""Total time for which the triggerer may be away during one canary."""


def longest(settings: Settings) -> timedelta:
    """Return the longest wait: the longest canary, with the longest hold of each step, and a margin."""
    return timedelta(seconds=longest_s(settings.canary.hold_s)) + MARGIN


class CanaryOperator(BaseOperator):
    """Watches the canary of this run's deployment; succeeds at once if the run asks for no canary.

    The task is never skipped, so the commit can have the rule that all tasks before it succeed. The wait
    holds no worker slot.
    """

    def execute(self, context: Any) -> str:
        """Hand the watch to the triggerer, unless there is nothing to wait for."""
        from ..triton_deploy.repository import ModelFolder

        settings = Settings.from_env()
        folder = ModelFolder.at(settings.repository_root, context["params"]["model"])
        with no_vain_retries():
            record = folder.journal.get(deploy_id_of(context))
        if record.due_step != "canary":
            return f"No canary is due: deployment {record.deploy_id} is {record.state}."
        from .triggers import CanaryTrigger

        # After an absence of the triggerer the step begins anew, so the timeout has to allow for that.
        raise TaskDeferred(
            trigger=CanaryTrigger(record.model, record.deploy_id),
            method_name="resume",
            timeout=longest(settings),
        )

    def resume(self, context: Any, event: dict[str, Any]) -> str:
        """Report the end of the canary. A failed candidate gets no more traffic; the rollback removes it."""
        if event["error"]:
            raise failure_in(event)
        return "The candidate did well."
