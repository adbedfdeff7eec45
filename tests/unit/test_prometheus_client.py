"""Prometheus and Alertmanager that are away, slow, empty, or something else: four things, and what follows from each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ml_code.triton_deploy.clients.http import SilentServer
from ml_code.triton_deploy.clients.prometheus import Alertmanager, Firing, Prometheus
from ml_code.triton_deploy.errors import AccessDenied, DeployError, Misconfigured, Unavailable

EMPTY = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})
PARSE_ERROR = json.dumps(
    {"status": "error", "errorType": "bad_data", "error": "1:5: parse error: unexpected end of input"}
)
LATER = datetime(2026, 1, 1, tzinfo=UTC)
Answers = Callable[..., str]


class Server:
    """An HTTP server that says what a test wants."""

    def __init__(self) -> None:
        self.status, self.body, self.pause_s = 200, EMPTY, 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                for byte in outer.body.encode():
                    if outer.pause_s:
                        time.sleep(outer.pause_s)
                    try:
                        self.wfile.write(bytes([byte]))
                    except OSError:
                        return

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.end()


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (401, "who are you", AccessDenied, "denies access (401)"),
        (403, "", AccessDenied, "denies access (403)"),
        (404, "404 page not found", Misconfigured, "has nothing at /api/v1/query (404)"),
        (410, "", Misconfigured, "(410)"),
        (204, "", Misconfigured, "(204)"),
        (302, "", Misconfigured, "(302)"),
        (400, PARSE_ERROR, Misconfigured, "parse error: unexpected end of input. The query is: sum("),
        (422, PARSE_ERROR, Misconfigured, "does not take a query (422)"),
        (200, "<!doctype html><title>Log in</title>", Misconfigured, "it is a web page, not JSON"),
        (200, '{"status": "error"}', Misconfigured, "does not answer /api/v1/query as it should"),
        (200, "[]", Misconfigured, "does not answer /api/v1/query as it should"),
        (429, "", Unavailable, "429"),
        (500, "", Unavailable, "500"),
        (503, "", Unavailable, "503"),
    ],
)
def test_what_is_wrong_is_told_from_what_may_pass(
    server: Server, status: int, body: str, error: type[DeployError], said: str
) -> None:
    server.status, server.body = status, body
    with pytest.raises(error) as raised:
        Prometheus(server.url, 3).value("sum(")
    assert said in raised.value.message
    assert raised.value.retryable is (error is Unavailable)


def test_what_is_empty_is_no_error(server: Server) -> None:
    assert Prometheus(server.url, 5).value("nothing") is None


def test_an_answer_that_drips_ends_at_the_limit_of_the_whole(server: Server) -> None:
    server.pause_s = 0.1
    began = time.monotonic()
    with pytest.raises(SilentServer, match=r"0\.5 s for the whole answer"):
        Prometheus(server.url, 0.5).value("slow")
    assert time.monotonic() - began < 3


def test_alerts_are_a_set_of_names_and_models(server: Server) -> None:
    server.body = json.dumps(
        [
            {"labels": {"alertname": "Fails", "model": model}, "startsAt": "2026-01-02T00:00:00Z"}
            for model in ("ours", "another")
        ]
        + [
            {"labels": {"alertname": "Shop"}, "startsAt": "2026-01-02T00:00:00Z"},
            {"labels": {"alertname": "Old", "model": "ours"}, "startsAt": "2025-01-02T00:00:00Z"},
        ]
    )
    assert Alertmanager(server.url, 5).firing(LATER) == {
        Firing("Fails", "ours"),
        Firing("Fails", "another"),
        Firing("Shop"),
    }
