"""The webhook that gets the notifications of the DAGs."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Misconfigured
from ..rules.web_address import split
from .checks import one_of
from .environment import FromEnvironment, setting


def _webhook(variable: str, url: str, default: str) -> None:
    """Refuse a text that is no URL, without showing it: everyone who knows the address can write there."""
    webhook = split(url)
    if url and not (webhook and webhook.scheme in ("http", "https") and webhook.hostname):
        raise Misconfigured(
            f"{variable} is not an http:// or https:// URL.",
            hint="Write it with its scheme, and without quotation marks.",
        )


@dataclass(frozen=True, kw_only=True)
class NotifySettings(FromEnvironment):
    """Address, format and deadline of the webhook."""

    url: str = setting(
        "TRITON_DEPLOY_NOTIFY_URL",
        "",
        "Webhook that the DAGs tell of rollbacks, reverts and releases that could not be judged; empty: no notification is sent.",
        secret=True,
        check=_webhook,
    )
    format: str = setting(
        "TRITON_DEPLOY_NOTIFY_FORMAT",
        "slack",
        "What it gets: `slack` (`text` alone, as Slack, Mattermost and others take it) or `json` (all of the facts).",
        check=one_of("slack", "json"),
    )
    timeout_s: float = setting(
        "TRITON_DEPLOY_NOTIFY_TIMEOUT_S", 5.0, "Longest wait for the webhook, seconds.", positive=True
    )
