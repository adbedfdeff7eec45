"""Reports deployments that went wrong to a webhook, if TRITON_DEPLOY_NOTIFY_URL names one."""

from __future__ import annotations

from typing import Any, Literal

from airflow.sdk import BaseNotifier

from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of

Occasion = Literal["rolled_back", "rollback_failed", "reverted", "baked", "refused"]


class DeployNotifier(BaseNotifier):
    """A callback of a task that sends a notification. An error here fails no task.

    Args:
        occasion: the event to report. ``rolled_back`` and ``rollback_failed`` are about this run's
            deployment, ``reverted`` is about the live release, ``baked`` about the release that this run
            committed, if it baked badly or could not be judged. ``refused`` says that the run did not
            begin.
        why: the reason of a refusal.
    """

    def __init__(self, occasion: Occasion, why: str = "") -> None:
        super().__init__()
        self.occasion, self.why = occasion, why

    def notify(self, context: Any) -> None:
        """Send the notification, made from the deployer's records; see BaseNotifier."""
        from ..triton_deploy.errors import DeployError
        from ..triton_deploy.report.notifications import notify

        settings = Settings.from_env()
        if not settings.notify.url:
            return
        try:
            notification = self._notification(settings, context)
        except DeployError as error:
            self.log.warning("no notification was sent: %s", error)
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
