"""Airflow's REST API, as its UI uses it: trigger a run and watch its tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests

from .errors import StackError

_POLL_S = 0.5
_TIMEOUT_S = 30.0
ENDED = ("success", "failed")


@dataclass(frozen=True)
class Times:
    """When a run or a task began and ended."""

    began: datetime
    ended: datetime

    @property
    def spent_s(self) -> float:
        """Seconds from the begin to the end."""
        return (self.ended - self.began).total_seconds()


class AirflowApi:
    """The REST API of one Airflow, logged in.

    Args:
        url: base address.
        login: user name and password.
    """

    def __init__(self, url: str, login: tuple[str, str]) -> None:
        self._url = url
        self._login = login
        self._session = requests.Session()
        self._session.trust_env = False

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run with these params and return its id.

        Raises:
            StackError: Airflow refuses the run; the text has the answer.
        """
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self._call("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def pause(self, dag_id: str) -> None:
        """Keep Airflow from scheduling a DAG."""
        self._call("PATCH", f"dags/{dag_id}", json={"is_paused": True})

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run: ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def run_times(self, dag_id: str, run_id: str) -> Times:
        """Return begin and end of a run that has ended."""
        return _times(self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}"))

    def task_times(self, dag_id: str, run_id: str) -> dict[str, Times]:
        """Return begin and end of each task of a run that a process ran to its end."""
        tasks = self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: _times(task) for task in tasks if task["pid"] and task["end_date"]}

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task of a run, in the order in which they began."""
        tasks = self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        tasks.sort(key=lambda task: task["start_date"] or "9")
        return {task["task_id"]: task["state"] for task in tasks}

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout_s: float,
        poll_s: float = _POLL_S,
        report: Callable[[str, str], None] = lambda task, state: None,
    ) -> str:
        """Wait for the end of a run and return its state.

        Args:
            dag_id: the DAG.
            run_id: the run.
            timeout_s: longest wait, seconds.
            poll_s: seconds between two queries; each query slows the run down.
            report: called with each task that has ended, and its state.

        Raises:
            StackError: the run did not end in time.
        """
        told: dict[str, str] = {}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self.run_state(dag_id, run_id)
            for task, task_state in self.task_states(dag_id, run_id).items():
                if task_state in (*ENDED, "skipped", "upstream_failed") and told.get(task) != task_state:
                    told[task] = task_state
                    report(task, task_state)
            if state in ENDED:
                return state
            time.sleep(poll_s)
        raise StackError(f"run {run_id} of {dag_id} did not end within {timeout_s:.0f} s: {told}")

    def _call(self, method: str, path: str, **options: Any) -> Any:
        if "Authorization" not in self._session.headers:
            username, password = self._login
            token = self._request(
                "POST", f"{self._url}/auth/token", json={"username": username, "password": password}
            )
            self._session.headers["Authorization"] = f"Bearer {token['access_token']}"
        return self._request(method, f"{self._url}/api/v2/{path}", **options)

    def _request(self, method: str, url: str, **options: Any) -> Any:
        try:
            response = self._session.request(method, url, timeout=_TIMEOUT_S, **options)
        except requests.RequestException as error:
            raise StackError(f"Airflow does not answer: {error}") from error
        if not response.ok:
            raise StackError(f"Airflow refuses {url} ({response.status_code}): {response.text[:500]}")
        return response.json()


def _times(entity: Mapping[str, Any]) -> Times:
    began, ended = (datetime.fromisoformat(entity[name]) for name in ("start_date", "end_date"))
    return Times(began, ended)
