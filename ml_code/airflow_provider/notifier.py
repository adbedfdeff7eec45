"""Tells a webhook what became of a deployment that did not go well (TRITON_DEPLOY_NOTIFY_URL); without one, nobody."""

from __future__ import annotations

from typing import Any, Literal

from airflow.sdk import BaseNotifier

from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of

Occasion = Literal["rolled_back", "rollback_failed", "reverted", "baked", "refused"]


class DeployNotifier(BaseNotifier):
    """A callback of a task. It only tells: whatever fails here changes nothing, and fails nothing.

    Args:
        occasion: what has happened when the task calls back: ``rolled_back`` and ``rollback_failed`` are about this run's
            deployment, ``reverted`` is about what is live now, ``baked`` about what this run committed, if it baked badly or
            could not be judged; ``refused`` that the run was not begun.
        why: why the run was refused.
    """

    def __init__(self, occasion: Occasion, why: str = "") -> None:
        super().__init__()
        self.occasion, self.why = occasion, why

    def notify(self, context: Any) -> None:
        """See BaseNotifier; the records of the deployer say what has happened."""
        from ..triton_deploy.errors import DeployError
        from ..triton_deploy.report.notifications import notify

        settings = Settings.from_env()
        if not settings.notify.url:
            return
        try:
            notification = self._notification(settings, context)
        except DeployError as error:
            self.log.warning("nobody was notified: %s", error)
            return
        if notification is not None:
            notify(settings, notification)

    def _notification(self, settings: Settings, context: Any) -> Any:
        from ..triton_deploy.report.notifications import of_bake, of_refusal, of_revert, of_rollback
        from ..triton_deploy.repository import ModelFolder

        params, run = context["params"], f"airflow:{context['dag'].dag_id}/{context['run_id']}"
        if self.occasion == "refused":
            return of_refusal(str(params.get("model") or ""), self.why, run)
        folder = ModelFolder.at(settings.repository_root, params["model"])
        deploy_id = deploy_id_of(context)
        if self.occasion == "reverted":
            return of_revert(folder, run)
        if self.occasion == "baked":
            return of_bake(folder, deploy_id, run)
        return of_rollback(folder, deploy_id, run, done=self.occasion == "rolled_back")
