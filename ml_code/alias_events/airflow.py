"""Airflow's REST API: one run for each delivery, also if the delivery is repeated."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import requests

from ..triton_deploy.clients import http
from ..triton_deploy.errors import AccessDenied, DeployError, Misconfigured, Unavailable
from .moves import Move
from .settings import EventSettings

T = TypeVar("T")

CONNECTIONS = 8
REFUSED_S = 10.0
"""Pause after a refused login, seconds; shorter than MLflow's pause, so that its next try gets through."""


class Outcome(enum.StrEnum):
    """Outcome of a request for a run."""

    TRIGGERED = "triggered"
    DUPLICATE = "duplicate"


class Airflow:
    """Client of the Airflow that deploys. Several threads may share it.

    Args:
        settings: address, credentials and the longest wait for an answer.
        clock_s: a monotonic clock, seconds.
    """

    def __init__(self, settings: EventSettings, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock_s = clock_s
        self._base = settings.airflow_url.rstrip("/")
        self._server = f"Airflow at {http.shown(self._base)}"
        self._session = http.new_session(pool_size=CONNECTIONS)
        self._lock = threading.Lock()
        """Guards the fields below; never held while Airflow is asked."""
        self._token = ""
        self._login: Future[str] | None = None
        self._refused: AccessDenied | None = None
        self._refused_until_s = 0.0

    def deploy(self, move: Move, delivery_id: str) -> Outcome:
        """Request the run of a delivery. Airflow accepts a run id once, also after a restart of both.

        Raises:
            AccessDenied: Airflow refuses the user, now or less than REFUSED_S ago.
            Misconfigured: Airflow refuses the run, or another server answers.
            Unavailable: Airflow does not answer, or failed.
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
        if not _taken(response):
            raise self._refusal(f"to run {self._settings.dag_id}", response)
        self._field(response, "the request for a run", lambda answer: answer.text("dag_run_id"))
        return Outcome.TRIGGERED

    def why_not_ready(self) -> str:
        """Return the reason why no deploy could be run now, or an empty text."""
        try:
            response = self._ask("GET", f"/api/v2/dags/{self._settings.dag_id}")
            if not _taken(response):
                return str(self._refusal(f"to look at {self._settings.dag_id}", response))
            paused = self._field(
                response, f"the question for {self._settings.dag_id}", lambda answer: answer.flag("is_paused")
            )
        except DeployError as error:
            return str(error)
        if paused:
            return f"The DAG {self._settings.dag_id} is paused in Airflow: deploys are queued until it is unpaused."
        return ""

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> requests.Response:
        """Send a request as the user; an expired token is replaced once."""
        if self._settings.airflow_token:
            return self._send(method, path, body, self._settings.airflow_token)
        self._recall_refusal()
        old = self._token
        if old:
            response = self._send(method, path, body, old)
            if response.status_code != 401:
                return response
        new = self._new_token(old)
        response = self._send(method, path, body, new)
        if response.status_code == 401:
            raise self._remember(self._refusal("the token that it has just given", response), new)
        return response

    def _new_token(self, old: str) -> str:
        """Return a token other than ``old``; concurrent callers share one login, and its error."""
        with self._lock:
            if self._token not in ("", old):
                return self._token
            login, mine = self._login, self._login is None
            if login is None:
                login = self._login = Future()
        if mine:
            try:
                token = self._log_in()
                with self._lock:
                    self._token = token
                login.set_result(token)
            except BaseException as error:
                login.set_exception(error)
            finally:
                with self._lock:
                    self._login = None
        return login.result()

    def _log_in(self) -> str:
        # Airflow may have refused another thread's login since this thread looked.
        self._recall_refusal()
        settings = self._settings
        user = {"username": settings.airflow_username, "password": settings.airflow_password}
        response = self._send("POST", "/auth/token", user)
        if not _taken(response):
            raise self._remember(self._refusal("a token", response), self._token)
        return self._field(response, "the login", lambda answer: answer.text("access_token"))

    def _recall_refusal(self) -> None:
        with self._lock:
            refused = self._refused if self._clock_s() < self._refused_until_s else None
        if refused:
            # A new exception each time: one exception would collect the tracebacks of all threads.
            raise AccessDenied(refused.message, hint=refused.hint)

    def _remember(self, error: DeployError, token: str) -> DeployError:
        """Return the error; remember a refusal, and drop the token that Airflow did not accept."""
        with self._lock:
            if isinstance(error, AccessDenied):
                self._refused, self._refused_until_s = error, self._clock_s() + REFUSED_S
            if self._token == token:
                self._token = ""
        return error

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
            server=self._server,
            hint="Check that its API server runs and that TRITON_EVENTS_AIRFLOW_URL is right.",
        )

    def _field(self, response: requests.Response, asked: str, read: Callable[[http.JsonAnswer], T]) -> T:
        """Return a field of Airflow's answer."""
        try:
            return read(http.answer_of(response, self._server, asked))
        except Misconfigured as error:
            raise Misconfigured(
                f"What answers at {http.shown(self._base)} is not Airflow. {error.message}",
                hint="Check TRITON_EVENTS_AIRFLOW_URL.",
            ) from error

    def _refusal(self, what: str, response: requests.Response) -> DeployError:
        status, said = response.status_code, http.explanation(response)
        if status in (401, 403):
            return AccessDenied(
                f"{self._server} refuses {what} ({status}): {said}.",
                hint=self._credentials_hint(status),
            )
        if status >= 500:
            return Unavailable(
                f"{self._server} failed ({status}): {said}.", hint="Look at its API server's log."
            )
        return Misconfigured(
            f"{self._server} refuses {what} ({status}): {said}.",
            hint="Check TRITON_EVENTS_DAG_ID, and that Airflow has parsed that DAG.",
        )

    def _credentials_hint(self, status: int) -> str:
        user = "TRITON_EVENTS_AIRFLOW_USERNAME and TRITON_EVENTS_AIRFLOW_PASSWORD"
        used = "TRITON_EVENTS_AIRFLOW_TOKEN" if self._settings.airflow_token else user
        if status == 403:
            return f"Set {used} of a user who may trigger DAGs."
        return f"What {used} say is wrong, or has expired: correct it."


def _taken(response: requests.Response) -> bool:
    return 200 <= response.status_code < 300
