"""An artifact store in a folder: a model of the zoo may be larger than what a store in memory should hold."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from ml_code.triton_deploy.clients.artifacts import Source
from ml_code.triton_deploy.rules.version_files import RemoteFile
from tests.support.ranged_server import Stored, ranged_server

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

    def find(path: str) -> Stored | None:
        file = folder / unquote(path)
        if not file.is_file():
            return None
        found = file.stat()
        return Stored(found.st_size, f"{found.st_mtime_ns:x}", lambda: file.open("rb"))

    try:
        with ranged_server(find) as url:
            yield FolderStore(url, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
