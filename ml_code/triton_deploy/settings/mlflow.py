"""MLflow: address, credentials, the wait for an alias, and the tags that a deploy writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Misconfigured
from ..rules.web_address import credentials, fault, shown, tracking_remedy
from .checks import one_of
from .environment import FromEnvironment, Problem, setting


def _tracking_address(variable: str, uri: str, default: str) -> None:
    if uri and (why := fault(uri)):
        raise Misconfigured(f"{variable}={shown(uri)!r} is {why}.", hint=tracking_remedy(uri))


def _tag_prefix(variable: str, prefix: str, default: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", prefix):
        raise Misconfigured(
            f"{variable}={prefix!r} can't begin the name of a tag.",
            hint="Use letters, digits, '_', '.' or '-', or 'off'.",
        )


@dataclass(frozen=True, kw_only=True)
class MlflowSettings(FromEnvironment):
    """Address and credentials of MLflow, the wait for an alias, and the tags that show the live version."""

    tracking_uri: str = setting(
        "MLFLOW_TRACKING_URI",
        "",
        "MLflow server, `http://…` or `https://…`. Required to deploy, not to roll back. A user and password in it are used, and shown nowhere.",
        check=_tracking_address,
    )
    username: str = setting("MLFLOW_TRACKING_USERNAME", "", "Basic authentication at MLflow.")
    password: str = setting("MLFLOW_TRACKING_PASSWORD", "", "Its password.", secret=True)
    token: str = setting(
        "MLFLOW_TRACKING_TOKEN", "", "Bearer token at MLflow, instead of a user.", secret=True
    )
    timeout_s: float = setting(
        "TRITON_DEPLOY_MLFLOW_TIMEOUT_S",
        10.0,
        "Longest wait for one answer of MLflow, all of it, seconds; a listing of many pages may take three times as long.",
        positive=True,
    )
    feedback_prefix: str = setting(
        "TRITON_DEPLOY_MLFLOW_FEEDBACK",
        "triton",
        "Prefix of the tags that tell MLflow what serves (`triton.status` and others), one for each environment on the same MLflow; `off` writes none.",
        check=_tag_prefix,
    )
    feedback_timeout_s: float = setting(
        "TRITON_DEPLOY_FEEDBACK_TIMEOUT_S",
        3.0,
        "Longest that a deploy, `reconcile` or `status` waits for those tags and for where the alias points, seconds.",
        positive=True,
    )
    alias_drift: str = setting(
        "TRITON_DEPLOY_ALIAS_DRIFT",
        "notice",
        "What `reconcile` makes of an alias that names another version than serves: `notice`, or `problem` (exit code 7).",
        check=one_of("notice", "problem"),
    )
    alias_wait_s: float = setting(
        "TRITON_DEPLOY_ALIAS_WAIT_S",
        300.0,
        "How long to wait for an alias that is not set yet, seconds; 0 fails at once.",
    )
    alias_poll_s: float = setting(
        "TRITON_DEPLOY_ALIAS_POLL_S", 5.0, "Pause between two looks for the alias, seconds."
    )

    def __post_init__(self) -> None:
        """Move user and password out of the address, as MLflow's client does: errors show the address."""
        if "@" in self.tracking_uri and not fault(self.tracking_uri):
            uri, user, password = credentials(self.tracking_uri)
            object.__setattr__(self, "tracking_uri", uri)
            if user:
                object.__setattr__(self, "username", user)
                object.__setattr__(self, "password", password)

    @property
    def tracking_url(self) -> str:
        """MLflow's base URL without a trailing slash; raises Misconfigured when it is not set."""
        if not self.tracking_uri:
            raise Misconfigured(
                "MLFLOW_TRACKING_URI is not set.",
                hint="Set it to the MLflow server, for example http://mlflow:5000.",
            )
        return self.tracking_uri.rstrip("/")

    def problems(self) -> Iterator[Problem]:
        """See FromEnvironment.problems."""
        yield from super().problems()
        if self.password and not self.username:
            yield Problem(
                "MLFLOW_TRACKING_PASSWORD",
                Misconfigured(
                    "MLFLOW_TRACKING_PASSWORD is set, and MLFLOW_TRACKING_USERNAME is not: MLflow would be asked without either.",
                    hint="Set both, or none.",
                ),
                beside=("MLFLOW_TRACKING_USERNAME",),
            )
