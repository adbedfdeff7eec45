"""The task in which a candidate shares in the clients' traffic, before its commit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from ..triton_deploy.errors import DeployError
from ..triton_deploy.rules.canary import longest_s
from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of

MARGIN = timedelta(hours=4)
"""A triggerer may be away for that long in all."""


def longest(settings: Settings) -> timedelta:
    """Return how long the wait may take: the longest canary with all that its steps wait, and a margin."""
    return timedelta(seconds=longest_s(settings.canary.hold_s)) + MARGIN


class CanaryOperator(BaseOperator):
    """Watches the canary of this run's deployment; succeeds at once when none was asked for.

    It is never skipped, so that the commit needs no other rule than all success. While it waits it holds no worker slot.
    """

    def execute(self, context: Any) -> str:
        """Hand the watch to the triggerer, unless there is nothing to wait for."""
        from ..triton_deploy.repository import ModelFolder

        params, settings = context["params"], Settings.from_env()
        folder = ModelFolder.at(settings.repository_root, params["model"])
        try:
            record = folder.journal.get(deploy_id_of(context))
        except DeployError as error:
            raise AirflowFailException(str(error)) from error
        if record.due_step != "canary":
            return f"No canary is due: deployment {record.deploy_id} is {record.state}."
        from .triggers import CanaryTrigger

        # With a triggerer that is away meanwhile: the step begins anew then.
        self.defer(
            trigger=CanaryTrigger(record.model, record.deploy_id),
            method_name="resume",
            timeout=longest(settings),
        )
        raise AssertionError("defer does not return")

    def resume(self, context: Any, event: dict[str, Any]) -> str:
        """Say how it ended; what failed has no share any more, and is left to the rollback."""
        if not event["error"]:
            return "The candidate did well."
        raise (AirflowException if event["retryable"] else AirflowFailException)(event["error"])
