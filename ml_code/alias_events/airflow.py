"""Airflow by its REST API: one run for one delivery, however often it is asked for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import requests

from ..triton_deploy import http
from ..triton_deploy.errors import AccessDenied, DeployError, Misconfigured, Unavailable
from .moves import Move
from .settings import EventSettings

CONNECTIONS = 8


class Outcome(enum.StrEnum):
    """What became of asking for a run."""

    TRIGGERED = "triggered"
    DUPLICATE = "duplicate"


class Airflow:
    """The Airflow that deploys. May be used by several threads.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    def __init__(self, settings: EventSettings) -> None:
        self._settings = settings
        self._base = settings.airflow_url.rstrip("/")
        self._session = http.new_session(pool_size=CONNECTIONS)
        self._token = settings.airflow_token

    def deploy(self, move: Move, delivery_id: str) -> Outcome:
        """Ask for the run of a delivery; Airflow takes a run id once, also after a restart of everything.

        Raises:
            AccessDenied, Misconfigured: Airflow refuses.
            Unavailable: it does not answer, or failed.
        """
        path = f"/api/v2/dags/{self._settings.dag_id}/dagRuns"
        response = self._ask(
            "POST",
            path,
            {
                "dag_run_id": move.run_id(delivery_id),
                "logical_date": None,
                "conf": {"model": move.model, "alias": move.alias},
                "note": f"Alias {move.alias} of {move.model} was set to version {move.version} in MLflow.",
            },
        )
        if response.status_code == 409:
            return Outcome.DUPLICATE
        if not response.ok:
            raise self._refusal(f"to run {self._settings.dag_id}", response)
        return Outcome.TRIGGERED

    def why_not_ready(self) -> str:
        """Return why a deploy could not be run now, or an empty text."""
        try:
            response = self._ask("GET", f"/api/v2/dags/{self._settings.dag_id}")
            if not response.ok:
                return str(self._refusal(f"to look at {self._settings.dag_id}", response))
        except DeployError as error:
            return str(error)
        if response.json()["is_paused"]:
            return f"The DAG {self._settings.dag_id} is paused in Airflow: deploys are queued until it is unpaused."
        return ""

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> requests.Response:
        """Ask as the user; a token that has run out is replaced."""
        token = self._token or self._log_in()
        response = self._send(method, path, body, token)
        if response.status_code == 401 and not self._settings.airflow_token:
            response = self._send(method, path, body, self._log_in())
        return response

    def _log_in(self) -> str:
        settings = self._settings
        user = {"username": settings.airflow_username, "password": settings.airflow_password}
        response = self._send("POST", "/auth/token", user)
        if not response.ok:
            raise self._refusal("a token", response)
        self._token = str(response.json()["access_token"])
        return self._token

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str = ""
    ) -> requests.Response:
        return http.send(
            self._session,
            method,
            f"{self._base}{path}",
            body=body,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout_s=self._settings.airflow_timeout_s,
            server=f"Airflow at {self._base}",
            hint="Check that its API server runs and that TRITON_EVENTS_AIRFLOW_URL is right.",
        )

    def _refusal(self, what: str, response: requests.Response) -> DeployError:
        status, said = response.status_code, _said(response)
        if status in (401, 403):
            return AccessDenied(
                f"Airflow at {self._base} refuses {what} ({status}): {said}.",
                hint="Set TRITON_EVENTS_AIRFLOW_USERNAME and TRITON_EVENTS_AIRFLOW_PASSWORD (or _TOKEN) of a user who may trigger DAGs.",
            )
        if status >= 500:
            return Unavailable(
                f"Airflow at {self._base} failed ({status}): {said}.", hint="Look at its API server's log."
            )
        return Misconfigured(
            f"Airflow at {self._base} refuses {what} ({status}): {said}.",
            hint="Check TRITON_EVENTS_DAG_ID, and that Airflow has parsed that DAG.",
        )


def _said(response: requests.Response) -> str:
    try:
        return " ".join(str(response.json()["detail"]).split())[:300].rstrip(".")
    except (ValueError, KeyError, TypeError):
        return http.explanation(response)
