"""A fake of Airflow's REST API, and the contract of the fake and of the real API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ml_code.alias_events.airflow import Airflow, Outcome
from ml_code.alias_events.moves import Move

DAG_ID = "mlflow_to_triton_deploy"


class FakeAirflow:
    """Runs by id.

    Attributes:
        url: where it listens.
        runs: the body of each request that made one.
        asked: how often a run was asked for.
        token: the only one that is taken.
        failing: the status of every answer, if not 0.
        paused: whether the DAG is.
    """

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[str, dict[str, Any]] = {}
        self.asked = 0
        self.token = "first"
        self.failing = 0
        self.paused = False
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if self.failing:
                return self.failing, {"detail": "it is not well"}
            if path == "/auth/token":
                known = body == {"username": "admin", "password": "right"}
                return (
                    (201, {"access_token": self.token}) if known else (401, {"detail": "Invalid credentials"})
                )
            if token != f"Bearer {self.token}":
                return 401, {"detail": "Invalid JWT token"}
            if path == f"/api/v2/dags/{DAG_ID}":
                return 200, {"dag_id": DAG_ID, "is_paused": self.paused}
            if (method, path) != ("POST", f"/api/v2/dags/{DAG_ID}/dagRuns"):
                return 404, {"detail": f"The Dag with ID: `{path.split('/')[4]}` was not found"}
            self.asked += 1
            if body["dag_run_id"] in self.runs:
                return 409, {"detail": {"reason": "Unique constraint violation"}}
            self.runs[body["dag_run_id"]] = body
            return 200, {"dag_run_id": body["dag_run_id"]}


@contextmanager
def fake_airflow() -> Iterator[FakeAirflow]:
    fake = FakeAirflow()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
            token = self.headers.get("Authorization", "")
            status, content = fake.answer(self.command, self.path, token, body)
            self.send_response(status)
            data = json.dumps(content).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def takes_a_delivery_once(airflow: Airflow, move: Move, delivery_id: str) -> None:
    """The contract that a receiver relies on, with a fake and with a real Airflow."""
    assert airflow.why_not_ready() == ""
    assert airflow.deploy(move, delivery_id) is Outcome.TRIGGERED
    assert airflow.deploy(move, delivery_id) is Outcome.DUPLICATE
    assert airflow.deploy(move, f"{delivery_id}-2") is Outcome.TRIGGERED
