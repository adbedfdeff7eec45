"""A small HTTP server that hands out files and answers ranges as S3 does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Stored:
    """A stored file.

    Attributes:
        size_bytes: its size.
        tag: changes with its content.
        open: opens it for reading.
    """

    size_bytes: int
    tag: str
    open: Callable[[], BinaryIO]


@contextlib.contextmanager
def ranged_server(find: Callable[[str], Stored | None]) -> Iterator[str]:
    """Serve files for the length of the block, and yield the server's URL.

    Args:
        find: returns the file at a path, as it stands in the URL without its first slash; None: there is none.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: in two, each answer waits 40 ms for the client's acknowledgement.
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            stored = find(self.path.lstrip("/"))
            if stored is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, end = 0, stored.size_bytes - 1
            ranged = self.headers.get("Range")
            if ranged:
                first, _, last = ranged.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or end), end)
            self.send_response(206 if ranged else 200)
            if ranged:
                self.send_header("Content-Range", f"bytes {start}-{end}/{stored.size_bytes}")
            self.send_header("ETag", f'"{stored.tag}"')
            self.send_header("Content-Length", str(end - start + 1))
            self.end_headers()
            with stored.open() as file:
                file.seek(start)
                for begin in range(start, end + 1, CHUNK_BYTES):
                    self.wfile.write(file.read(min(CHUNK_BYTES, end + 1 - begin)))

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
