"""Settings of the receiver and the watcher: read from the environment once, like the deployer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..triton_deploy.errors import Misconfigured
from ..triton_deploy.rules.web_address import credentials, fault, shown
from ..triton_deploy.settings.checks import web_address
from ..triton_deploy.settings.environment import FromEnvironment, setting
from .moves import ANY, Followed

SHORTEST_SECRET = 16
"""Least length of a secret, characters."""


def _pairs(variable: str, texts: Sequence[str], default: object) -> None:
    """Check that each text is ``model@alias``."""
    for text in texts:
        Followed.parse(text)


def _named_pairs(variable: str, texts: Sequence[str], default: object) -> None:
    pairs = [Followed.parse(text) for text in texts]
    if any(ANY in (pair.model, pair.alias) for pair in pairs):
        raise Misconfigured(
            f"{variable} has a '*': what is looked at has to be named.", hint="Write model@alias for each."
        )


def _receivers_address(variable: str, url: str, default: str) -> None:
    web_address(variable, url, default)
    if "@" in url:
        raise Misconfigured(
            f"{variable}={shown(url)!r} has a user or a password in it, which MLflow shows to everybody who may see webhooks.",
            hint="Leave them out: the receiver knows MLflow by the signature (TRITON_EVENTS_SECRET).",
        )


@dataclass(frozen=True, kw_only=True)
class EventSettings(FromEnvironment):
    """All settings of alias events; the table in docs/events.md is generated from these fields.

    MLflow's address and credentials are the deployer's (``MLFLOW_TRACKING_URI`` and so on).
    """

    allow: tuple[str, ...] = setting(
        "TRITON_EVENTS_ALLOW",
        ("best_model@A",),
        "Moves that the receiver deploys, `model@alias`, comma-separated; `*` stands for every model or every alias.",
        check=_pairs,
    )
    watch: tuple[str, ...] = setting(
        "TRITON_EVENTS_WATCH",
        (),
        "Aliases that Airflow's triggerer looks at, `model@alias`, comma-separated, every `TRITON_DEPLOY_ALIAS_POLL_S`; none by default.",
        check=_named_pairs,
    )
    secret: tuple[str, ...] = setting(
        "TRITON_EVENTS_SECRET",
        (),
        "Secret that MLflow signs with, 16 characters or more. Several, comma-separated, are all accepted; MLflow is given the first. The receiver requires it.",
        secret=True,
    )
    url: str = setting(
        "TRITON_EVENTS_URL",
        "",
        "Where MLflow reaches the receiver, for example `https://events.example.org`. If set, the receiver registers its webhook there by itself.",
        check=_receivers_address,
    )
    airflow_url: str = setting(
        "TRITON_EVENTS_AIRFLOW_URL",
        "http://127.0.0.1:8080",
        "Airflow's API server. A user and password in it are used, and shown nowhere.",
        check=web_address,
    )
    airflow_username: str = setting("TRITON_EVENTS_AIRFLOW_USERNAME", "", "User that triggers the deploys.")
    airflow_password: str = setting("TRITON_EVENTS_AIRFLOW_PASSWORD", "", "Its password.", secret=True)
    airflow_token: str = setting(
        "TRITON_EVENTS_AIRFLOW_TOKEN", "", "Bearer token at Airflow, instead of a user.", secret=True
    )
    airflow_timeout_s: float = setting(
        "TRITON_EVENTS_AIRFLOW_TIMEOUT_S",
        10.0,
        "Longest wait for one answer of Airflow, seconds.",
        positive=True,
    )
    dag_id: str = setting("TRITON_EVENTS_DAG_ID", "mlflow_to_triton_deploy", "DAG that is triggered.")
    host: str = setting("TRITON_EVENTS_HOST", "127.0.0.1", "Address to listen on; `0.0.0.0` for all.")
    port: int = setting("TRITON_EVENTS_PORT", 8110, "Port to listen on; 0 for any free one.")
    tolerance_s: float = setting(
        "TRITON_EVENTS_TOLERANCE_S",
        300.0,
        "How far the time of a delivery may be from the receiver's clock, seconds.",
    )
    max_body_bytes: int = setting(
        "TRITON_EVENTS_MAX_BODY_BYTES", 64 << 10, "Largest body of a delivery, bytes; more gets 413."
    )

    def __post_init__(self) -> None:
        """Move user and password out of Airflow's address, so that no error, log or page shows them."""
        if "@" in self.airflow_url and not fault(self.airflow_url):
            url, user, password = credentials(self.airflow_url)
            object.__setattr__(self, "airflow_url", url)
            if user:
                object.__setattr__(self, "airflow_username", user)
                object.__setattr__(self, "airflow_password", password)

    @property
    def allowed(self) -> list[Followed]:
        """Models and aliases whose moves the receiver deploys."""
        return [Followed.parse(text) for text in self.allow]

    @property
    def watched(self) -> list[Followed]:
        """Models and aliases that Airflow's triggerer polls."""
        return [Followed.parse(text) for text in dict.fromkeys(self.watch)]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets, the newest first; raises Misconfigured without a secret, or with a short one."""
        if not self.secret or any(len(secret) < SHORTEST_SECRET for secret in self.secret):
            raise Misconfigured(
                f"TRITON_EVENTS_SECRET is {'too short' if self.secret else 'not set'}.",
                hint=f"Set it to {SHORTEST_SECRET} random characters or more: openssl rand -hex 32.",
            )
        return self.secret
