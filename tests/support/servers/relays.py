"""Servers that answer as a test says, that pass on what they are asked, or that say nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter


@dataclass
class Reply:
    """An answer on its way through a relay, to be changed in place.

    Attributes:
        path: of the request.
        sent_bytes: how much of the body goes out before the connection is cut; None for all of it.
    """

    path: str
    status: int
    headers: dict[str, str]
    body: bytes
    sent_bytes: int | None = None

    def replace_body(self, body: bytes, status: int | None = None) -> None:
        self.status, self.body = status or self.status, body
        self.headers["content-length"] = str(len(body))


@dataclass
class Relay:
    """An HTTP server that passes GETs on; ``spoil`` may change what comes back."""

    url: str = ""
    spoil: Callable[[Reply], None] = lambda reply: None
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)


@contextmanager
def relay_to(upstream: str) -> Iterator[Relay]:
    relay = Relay()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            relay.requests.append((self.path, dict(self.headers)))
            # Host goes on as it came: S3's signatures include it.
            connection = HTTPConnection(urlsplit(upstream).netloc, timeout=60)
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            dropped = ("transfer-encoding", "connection", "date", "server")
            headers = {k.lower(): v for k, v in answer.getheaders() if k.lower() not in dropped}
            reply = Reply(self.path, answer.status, headers, answer.read())
            connection.close()
            reply.headers["content-length"] = str(len(reply.body))
            relay.spoil(reply)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.sent_bytes])
            if reply.sent_bytes is not None:
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    relay.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield relay
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers; yields ``host:port``."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def answering(status: int, body: bytes, content_type: str = "text/html") -> Iterator[str]:
    """Answers every GET with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


def ask_for_host(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Let every request name this host, as from a container that calls the server by its service name."""
    real = HTTPAdapter.send

    def send(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        request.headers["Host"] = host
        return real(adapter, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", send)
