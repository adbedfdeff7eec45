"""An artifact store in a folder: a model of the zoo may be larger than what a store in memory should hold."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ml_code.triton_deploy.clients.artifacts import Source
from ml_code.triton_deploy.rules.version_files import RemoteFile

SCHEME = "fake://"


class FolderStore:
    """The files below a folder, handed out by a small HTTP server that answers ranges as S3 does.

    Args:
        url: of the server.
        folder: an artifact directory is one of its folders.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    def list_files(self, uri: str) -> list[RemoteFile]:
        """See ArtifactStore.list_files."""
        root = self._folder / uri.removeprefix(SCHEME)
        files = (path for path in sorted(root.rglob("*")) if path.is_file())
        return [RemoteFile(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]

    def source(self, uri: str, path: str) -> Source:
        """See ArtifactStore.source."""
        place = quote(f"{uri.removeprefix(SCHEME)}/{path}")
        return Source(f"{self._url}/{place}", "the zoo's store", ranged=True)


@contextlib.contextmanager
def folder_store(folder: Path) -> Iterator[FolderStore]:
    """Serve a folder for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: in two, each answer waits 40 ms for the client's acknowledgement.
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            path = folder / unquote(self.path.lstrip("/"))
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size, ranged = path.stat().st_size, self.headers.get("Range")
            first, _, last = (ranged or "bytes=0-").removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or size - 1), size - 1)
            self.send_response(206 if ranged else 200)
            if ranged:
                self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
            self.send_header("Content-Length", str(end - start + 1))
            self.end_headers()
            with path.open("rb") as file:
                file.seek(start)
                left = end - start + 1
                while left > 0:
                    chunk = file.read(min(left, 1 << 20))
                    self.wfile.write(chunk)
                    left -= len(chunk)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield FolderStore(f"http://127.0.0.1:{server.server_port}", folder)
    finally:
        server.shutdown()
        server.server_close()
        shutil.rmtree(folder, ignore_errors=True)
