"""The webhook in MLflow that calls the receiver: created if it is missing, corrected if it exists."""

from __future__ import annotations

from ..triton_deploy.clients.mlflow_api import MlflowApi
from ..triton_deploy.errors import Misconfigured, Unavailable
from ..triton_deploy.errors.texts import excerpt
from ..triton_deploy.settings import Settings

NAME = "triton-events"
PATH = "/mlflow"
"""Path at which the receiver takes deliveries."""
_EVENTS = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]


def address(url: str) -> str:
    """Return the address of MLflow's deliveries to a receiver at ``url``."""
    return url.rstrip("/") + PATH


class Webhooks:
    """The webhooks of an MLflow server.

    Args:
        settings: the server's address and credentials.
    """

    def __init__(self, settings: Settings) -> None:
        self._api = MlflowApi(settings)

    def ensure(self, url: str, secret: str) -> str:
        """Have MLflow call the receiver at ``url``; returns the webhook's id.

        An existing webhook is corrected. MLflow does not reveal its secret, so the secret is always
        written again. Of several webhooks (two receivers started at the same time) the oldest stays.

        Raises:
            Misconfigured: MLflow does not accept such a webhook.
            DeployError: MLflow refuses for another reason, or does not answer.
        """
        wanted = {
            "name": NAME,
            "url": address(url),
            "events": _EVENTS,
            "secret": secret,
            "status": "ACTIVE",
            "description": "Deploys to Triton what an alias is set to.",
        }
        try:
            if not self._ours(address(url)):
                self._api.send("POST", "mlflow/webhooks", **wanted)
            first, *others = self._ours(address(url))
            self._api.send("PATCH", f"mlflow/webhooks/{first}", **wanted)
            for other in others:
                self._api.send("DELETE", f"mlflow/webhooks/{other}")
        except Misconfigured as error:
            raise Misconfigured(
                error.message,
                hint="MLflow takes webhooks with a database as its registry, and by default only https:// URLs of public addresses: "
                "docs/events.md has the server's settings.",
            ) from error
        return first

    def test(self, webhook_id: str) -> None:
        """Let MLflow deliver an example, which the receiver does not deploy.

        Raises:
            Unavailable: MLflow does not reach the receiver.
            Misconfigured: the receiver refuses the example.
        """
        result = self._api.send("POST", f"mlflow/webhooks/{webhook_id}/test").part("result")
        status = result.whole("response_status", 0)
        if not status:
            raise Unavailable(
                f"MLflow does not reach the receiver: {excerpt(result.text('error_message', 'no answer'), 300)}",
                hint="Check TRITON_EVENTS_URL from where MLflow runs.",
            )
        if status >= 400:
            raise Misconfigured(
                f"The receiver refused MLflow's test ({status}): {excerpt(result.text('response_body', ''), 300)}",
                hint="Start it with the TRITON_EVENTS_SECRET that was registered, and compare the clocks.",
            )

    def _ours(self, url: str) -> list[str]:
        hooks = self._api.every("mlflow/webhooks", "webhooks")
        found = [
            (hook.whole("creation_timestamp"), hook.text("webhook_id"))
            for hook in hooks
            if hook.text("url") == url
        ]
        return [webhook_id for _, webhook_id in sorted(found)]
