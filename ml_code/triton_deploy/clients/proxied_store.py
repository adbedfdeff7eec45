"""Artifacts behind MLflow's proxy: MLflow lists them, and hands out presigned URLs when its store is S3.

A presigned URL allows parallel ranged reads without keys on the worker. If S3 can't be reached from the
worker, the files come through MLflow itself.
"""

from __future__ import annotations

import logging
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..errors import AccessDenied, DeployError, Misconfigured, Unavailable
from ..rules import web_address
from ..rules.locations import ProxyPlace
from ..rules.version_files import RemoteFile
from ..settings import Settings
from . import http
from .http import tls
from .listing import Listing
from .mlflow_api import credentials_hint, login
from .sources import Source, place_of

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

_LISTED = "the listing of a model version's files"
_PRESIGNED = "the question for a file's address"


class ProxiedStore:
    """Artifacts that the MLflow server hands out (``mlflow-artifacts:/…``).

    Args:
        settings: address, credentials and deadlines.

    Raises:
        Misconfigured: a variable for MLflow's certificate can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = f"MLflow at {http.shown(settings.mlflow.tracking_url)}"
        self._trust = tls.trust("mlflow")
        self._session = http.new_session(pool_size=1, trust=self._trust)
        self._reached: dict[str, bool] = {}

    def list_files(self, uri: str) -> list[RemoteFile]:
        """See ArtifactStore.list_files."""
        root = _proxied(uri).path
        listing = Listing(uri, self._server, self._settings.mlflow.timeout_s)
        files: list[RemoteFile] = []
        folders = [PurePosixPath()]
        while folders:
            folder = folders.pop()
            listing.folder(len(folder.parts))
            for path, size_bytes in self._entries(root, folder, listing):
                if size_bytes is None:
                    folders.append(path)
                else:
                    files.append(listing.file(str(path), size_bytes))
        return sorted(files, key=lambda file: file.path)

    def source(self, uri: str, path: str) -> Source:
        """See ArtifactStore.source."""
        full = quote(_proxied(uri).child(path).path)
        response = self._get(f"presigned/{full}", self._settings.mlflow.timeout_s)
        if response.status_code == 200:
            url = http.answer_of(response, self._server, _PRESIGNED, "MLFLOW_TRACKING_URI").text("url")
            if self._reachable(url):
                return Source(
                    url,
                    f"S3 at {_origin(url)}",
                    ranged=True,
                    trust=tls.trust("s3"),
                    renew=lambda: self.source(uri, path),
                )
        elif response.status_code not in (404, 405, 501):
            raise self._refusal(response)
        headers, auth = login(self._settings)
        return Source(
            f"{self._settings.mlflow.tracking_url}/api/2.0/mlflow-artifacts/artifacts/{full}",
            self._server,
            ranged=False,
            headers=headers,
            auth=auth,
            trust=self._trust,
        )

    def _entries(
        self, root: str, folder: PurePosixPath, listing: Listing
    ) -> list[tuple[PurePosixPath, int | None]]:
        """Return the paths in a folder, each with the size of the file in bytes, or None for a folder."""
        response = self._get("artifacts", listing.next_timeout_s(), path=str(PurePosixPath(root) / folder))
        if response.status_code != 200:
            raise self._refusal(response)
        entries = http.answer_of(response, self._server, _LISTED, "MLFLOW_TRACKING_URI").items("files")
        listing.page(response.content, len(entries))
        found: list[tuple[PurePosixPath, int | None]] = []
        for entry in entries:
            name = PurePosixPath(entry.text("path")).name
            if name in ("", "..") or not name.isprintable():
                raise listing.wrong(
                    f"the path {entry.text('path')[:100]!r}, which leads out of it or is none"
                )
            size_bytes = None if entry.flag("is_dir", False) else entry.whole("file_size", 0)
            found.append((folder / name, size_bytes))
        return found

    def _reachable(self, url: str) -> bool:
        """Whether this machine, maybe in another network than MLflow, reaches S3; tried once an origin."""
        parts = web_address.split(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(
                f"{self._server} hands out {http.shown(url)!r} as the address of a file, which is none.",
                hint="Check MLFLOW_S3_ENDPOINT_URL of the MLflow server.",
            )
        origin = _origin(url)
        if origin not in self._reached:
            self._reached[origin] = self._probe(url, origin)
        return self._reached[origin]

    def _probe(self, url: str, origin: str) -> bool:
        """Whether S3 answers a read of one byte."""
        try:
            response = http.send(
                http.new_session(pool_size=1, trust=tls.trust("s3")),
                "GET",
                url,
                headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"},
                timeout_s=self._settings.transfer.probe_timeout_s,
                server=f"S3 at {origin}",
                hint="The files are read through MLflow.",
                stream=True,
            )
        except Misconfigured as error:
            log.warning("S3 is not read directly, the files come through MLflow: %s", error)
            return False
        except Unavailable as error:
            log.info("S3 is not read directly: %s", error)
            return False
        with response:
            return response.status_code in (200, 206, 416)

    def _get(self, endpoint: str, timeout_s: float, **params: str) -> requests.Response:
        headers, auth = login(self._settings)
        return http.send(
            self._session,
            "GET",
            f"{self._settings.mlflow.tracking_url}/api/2.0/mlflow-artifacts/{endpoint}",
            params=params,
            headers=headers,
            auth=auth,
            timeout_s=timeout_s,
            server=self._server,
            hint="Check that MLflow runs and can reach its artifact store, then deploy again.",
        )

    def _refusal(self, response: requests.Response) -> DeployError:
        status, text = response.status_code, http.explanation(response)
        if status in (401, 403):
            return AccessDenied(
                f"{self._server} denies access to artifacts ({status}): {text}.",
                hint=credentials_hint(self._settings, status),
            )
        message = f"{self._server} can't hand out artifacts ({status}): {text}."
        if status in (404, 501) or "--no-serve-artifacts" in text:
            return Misconfigured(
                message, hint="Start MLflow with --serve-artifacts and --artifacts-destination."
            )
        if status < 500 and status != 429:
            return Misconfigured(
                message, hint="Check the names of the model version's files, and MLflow's log."
            )
        return Unavailable(
            message,
            hint="Check that MLflow's artifact store (S3) runs and that MLflow has its keys; see MLflow's log.",
        )


def _proxied(uri: str) -> ProxyPlace:
    place = place_of(uri)
    assert isinstance(place, ProxyPlace), uri
    return place


def _origin(url: str) -> str:
    parts = web_address.split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts else ""
