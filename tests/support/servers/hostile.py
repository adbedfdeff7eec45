"""Hostile requests, sent as bytes, and a server that records the requests that reach it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

INFER = "/v2/models/best_model/infer"

ADMIN_PATHS = [
    "/v2/repository/index",
    "/v2/repository/models/best_model/load",
    "/v2/repository/models/best_model/unload",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/status",
    "/v2/cudasharedmemory/region/r/register",
    "/v2/trace/setting",
    "/v2/models/best_model/trace/setting",
    "/v2/logging",
    "/v2/models/best_model/config",
    "/v2/models/best_model/stats",
    "/v2/models/stats",
    "/v2/models/best_model/generate",
    "/v2/models/best_model/generate_stream",
    "/v2/models/best_model.v1/infer",
    "/v2/models/best_model.v1",
    "/metrics/../v2/repository/index",
]

TRICKS = [
    "/v2/models/../repository/index",
    "/v2/models/best_model/../../repository/index",
    "/v2/models/%2e%2e/repository/index",
    "/v2/models/..%2frepository%2findex",
    "/v2/models/best_model%2f..%2f..%2frepository%2findex",
    "/v2/models/best_model/%2e%2e/%2e%2e/repository/index",
    "/v2/models/best_model/infer/../../../repository/index",
    "/v2/models/best_model/infer%0d%0aX-Evil:%201",
    "/v2/models/best_model/infer%00",
    "/v2/models/best_model/infer;x=/v2/repository/index",
    "/v2//repository/index",
    "//v2/repository/index",
    "/./v2/repository/index",
    "/%76%32/repository/index",
    "/v2\\repository\\index",
    "/V2/repository/index",
    "/v2/repository/index/",
    "/v2/repository/index?ready=true",
    "http://127.0.0.1:8000/v2/repository/index",
    "/predict/../v2/repository/index",
    "/predict/..%2f..%2fetc%2fpasswd",
    "/predict/%00",
    "/model-info/..%2f..%2fetc%2fpasswd",
    "/model-info/%2e%2e",
    "/status?model=../../etc/passwd",
    "/status?model=%00",
    "/../../../../etc/passwd",
    "/%c0%ae%c0%ae/etc/passwd",
    "/v2/models/" + "a" * 5000 + "/infer",
    "/v2/models/best_model/versions/-1/infer",
    "/v2/models/best_model/versions/9223372036854775808/infer",
    "/v2/models/best_model/versions/1e3/infer",
    "/v2/models/best_model/versions/../../repository/infer",
]


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def tensor(**changes: object) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1], **changes}]}
    ).encode()


class Listening(Protocol):
    """What listens on a port of this machine."""

    port: int


def send(server: Listening, data: bytes) -> bytes:
    """Send bytes, and return the beginning of the answer; empty when there is none but the end of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        # An answer may come, and the connection end, while there is more to send.
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        with contextlib.suppress(ConnectionError):
            return client.recv(12)
    return b""


class Recorder:
    """A server in Triton's place that notes what it is asked, and says no.

    Attributes:
        asked: method and path of each request.
        bodies: what came with it.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        asked, bodies = self.asked, self.bodies

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._note()

            def do_POST(self) -> None:
                self._note()

            def _note(self) -> None:
                asked.append(f"{self.command} {self.path}")
                bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                self.send_response(400)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
