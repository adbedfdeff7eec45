"""One object in a store that answers as S3 does, except for the answers that a test scripts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """An answer, to be changed in place before it goes out.

    Attributes:
        number: of the request, from 1.
        asked: headers of the request.
        url: its path and query.
        cut_at: the connection ends after so many bytes of the body; None for all of it.
        piece_bytes: how much is sent at a time, None for all at once.
        pause_s: pause after each piece.
    """

    number: int
    asked: Mapping[str, str]
    url: str
    status: int
    headers: dict[str, str]
    body: bytes
    cut_at: int | None = None
    piece_bytes: int | None = None
    pause_s: float = 0.0

    def refuse(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {"Content-Length": str(len(body)), **headers}


@dataclass
class ScriptedStore:
    """The server: its object, its requests, and its scripted answers."""

    content: bytes
    etag: str = '"first"'
    modified: str = "Mon, 01 Jun 2026 10:00:00 GMT"
    url: str = ""
    twist: Callable[[Said], None] = lambda said: None
    asked: list[Mapping[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First byte and the one after the last, of each request."""
        spans = [
            headers["Range"].removeprefix("bytes=").split("-") for headers in self.asked if "Range" in headers
        ]
        return [(int(first), int(last) + 1) for first, last in spans]

    def answer(self, url: str, asked: Mapping[str, str]) -> Said:
        with self.lock:
            self.asked.append(asked)
            number = len(self.asked)
        headers = {"ETag": self.etag, "Last-Modified": self.modified}
        body, status = self.content, 200
        if "Range" in asked:
            first, last = asked["Range"].removeprefix("bytes=").split("-")
            end = min(int(last), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(body)}"
            body, status = body[int(first) : end + 1], 206
        said = Said(number, asked, url, status, headers | {"Content-Length": str(len(body))}, body)
        self.twist(said)
        return said


@contextmanager
def scripted_store(content: bytes) -> Iterator[ScriptedStore]:
    store = ScriptedStore(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            said = store.answer(self.path, dict(self.headers))
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = said.body[: said.cut_at]
            piece = said.piece_bytes or max(len(body), 1)
            with suppress(OSError):
                for start in range(0, len(body), piece):
                    self.wfile.write(body[start : start + piece])
                    self.wfile.flush()
                    if said.pause_s and store.closing.wait(said.pause_s):
                        break
                self.wfile.flush()
            if said.cut_at is not None or "Content-Length" not in said.headers:
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            """Clients that hang up are what is tried here."""

    server = Server(("127.0.0.1", 0), Handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield store
    finally:
        store.closing.set()
        server.shutdown()
        server.server_close()


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Fail when the body of the ``with`` statement takes longer."""
    started_s = time.monotonic()
    yield
    took_s = time.monotonic() - started_s
    assert took_s < limit_s, f"it took {took_s:.1f} s"
