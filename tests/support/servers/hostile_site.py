"""An MLflow, its S3 and a Prometheus in threads of this process, whose answers may be altered on the way (see twists.py).

Enough of them for a deploy: behind MLflow's proxy with presigned URLs and without, and at ``s3://`` itself
with a listing as AWS gives it. The servers check the signs of a healthy client: credentials, and
``If-Match``. One more server, *elsewhere*, is where redirects lead.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape

from ml_code.triton_deploy.rules.version_files import DIGEST_TAG
from tests.support.servers.hostile_messages import SECRETS, SERVERS, Answer, Asked, etag_of, ranged
from tests.support.servers.plain import secured_by
from tests.support.servers.wire import Wire

BUCKET = "mlflow"
ROOT = "artifacts"
"""MLflow's prefix of its paths in the bucket."""
PAGE = 1000
"""How many keys a page of S3 has at most."""


class Hostile(Protocol):
    """What is done to an answer."""

    def do(self, site: HostileSite, asked: Asked, answer: Answer, wire: Wire) -> bool:
        """Answer in place of the site, and return True; or leave it to the site."""


@dataclass
class Contents:
    """The content of MLflow and S3: one version of one model.

    Attributes:
        files: content by path below the version's folder.
        direct: the version's files are at ``s3://``, not behind MLflow's proxy.
        presigns: MLflow hands out presigned URLs.
        digest: what training recorded, or empty.
    """

    model: str
    version: int
    files: dict[str, bytes]
    direct: bool = False
    presigns: bool = True
    digest: str = ""

    @property
    def run_id(self) -> str:
        return f"run{self.version}"

    @property
    def root(self) -> str:
        """Where the run's artifacts are, below MLflow's root."""
        return f"1/{self.run_id}/artifacts"

    @property
    def run_uri(self) -> str:
        return f"s3://{BUCKET}/{ROOT}/{self.root}" if self.direct else f"mlflow-artifacts:/{self.root}"

    @property
    def objects(self) -> dict[str, bytes]:
        """Content by key in the bucket."""
        return {f"{ROOT}/{self.root}/model/{path}": data for path, data in self.files.items()}


class HostileSite:
    """The servers; they run while the block does.

    Args:
        contents: their content.
        hostile: twists of their answers; default: none.
        tls: by server its certificate, and whether it asks for one of the client; one that is not named
            speaks plain HTTP.
        host: what they are called in the addresses that they give.

    Attributes:
        asked: every request, in the order in which they came.
        defects: what went wrong in here.
    """

    def __init__(
        self,
        contents: Contents,
        hostile: Hostile | None = None,
        tls: Mapping[str, ssl.SSLContext] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.contents, self.hostile, self._host = contents, hostile, host
        self.asked: list[Asked] = []
        self.defects: list[str] = []
        self.stopping = threading.Event()
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._servers = {name: _Server(self, name, (tls or {}).get(name)) for name in SERVERS}

    def __enter__(self) -> Self:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def url(self, name: str) -> str:
        """Return the address of one of SERVERS."""
        return self._servers[name].url(self._host)

    def note(self, server: str, method: str, target: str, headers: Mapping[str, str]) -> Asked:
        """Remember a request."""
        endpoint = _endpoint(server, target)
        with self._lock:
            self._counted[endpoint] += 1
            asked = Asked(server, endpoint, self._counted[endpoint], method, target, headers)
            self.asked.append(asked)
        return asked

    def answer(self, asked: Asked) -> Answer:
        """Return the answer of a healthy server."""
        if asked.server == "elsewhere":
            return self._object(asked)
        if asked.server == "s3":
            return self._s3(asked)
        if asked.server == "prometheus":
            return Answer.json({"status": "success", "data": {"resultType": "vector", "result": []}})
        if asked.endpoint != "version" and asked.headers.get("authorization") not in SECRETS.authorizations:
            return Answer.json(
                {"error_code": "UNAUTHENTICATED", "message": "You are not authenticated."}, 401
            )
        return self._mlflow(asked)

    # MLflow

    def _mlflow(self, asked: Asked) -> Answer:
        contents = self.contents
        known = {
            "version": lambda: Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"3.17.0"),
            "alias": lambda: Answer.json({"model_version": self._version()}),
            "place": lambda: Answer.json({"artifact_uri": f"{contents.run_uri}/model"}),
            "run": lambda: Answer.json({"run": {"info": self._run(), "data": {"tags": []}}}),
            "search": lambda: Answer.json({"model_versions": [self._version()]}),
            "tag": lambda: Answer.json({}),
            "experiments": lambda: Answer.json({"experiments": [self._experiment()]}),
            "logged": lambda: Answer.json(
                {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Logged model not found."}, 404
            ),
            "presigned": lambda: self._presigned(asked),
            "listing": lambda: self._folder(asked.query.get("path", "")),
            "proxied": lambda: self._proxied(asked),
        }
        make = known.get(asked.endpoint)
        return (
            make()
            if make
            else Answer.json({"error_code": "ENDPOINT_NOT_FOUND", "message": "Not found."}, 404)
        )

    def _version(self) -> dict[str, Any]:
        contents = self.contents
        tags = [{"key": DIGEST_TAG, "value": contents.digest}] if contents.digest else []
        return {
            "name": contents.model,
            "version": str(contents.version),
            "creation_timestamp": 1791000000000,
            "current_stage": "None",
            "description": "",
            "source": f"{contents.run_uri}/model",
            "run_id": contents.run_id,
            "status": "READY",
            "tags": tags,
            "aliases": ["A"],
        }

    def _run(self) -> dict[str, Any]:
        contents = self.contents
        return {
            "run_id": contents.run_id,
            "experiment_id": "1",
            "status": "FINISHED",
            "lifecycle_stage": "active",
            "artifact_uri": contents.run_uri,
        }

    def _experiment(self) -> dict[str, Any]:
        place = self.contents.run_uri.rsplit("/", 2)[0]
        return {"experiment_id": "1", "name": self.contents.model, "artifact_location": place}

    def _folder(self, path: str) -> Answer:
        prefix = f"{ROOT}/{path.strip('/')}/"
        found: dict[str, dict[str, Any]] = {}
        for key, data in self.contents.objects.items():
            if key.startswith(prefix):
                name, slash, _ = key.removeprefix(prefix).partition("/")
                found[name] = {"path": name, "is_dir": bool(slash)} | (
                    {} if slash else {"file_size": len(data)}
                )
        return Answer.json({"files": list(found.values())} if found else {})

    def _presigned(self, asked: Asked) -> Answer:
        if not self.contents.presigns or self.contents.direct:
            return Answer.json({"error_code": "NOT_IMPLEMENTED", "message": "No presigned URLs here."}, 501)
        path = asked.path.partition("/presigned/")[2]
        query = (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=MLFLOWKEY%2F20261005%2Fus-east-1%2Fs3%2Faws4_request"
            "&X-Amz-Date=20261005T070000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
            f"&X-Amz-Security-Token={SECRETS.session}&X-Amz-Signature={SECRETS.signature}"
        )
        return Answer.json({"url": f"{self.url('s3')}/{BUCKET}/{ROOT}/{quote(path)}?{query}", "headers": {}})

    def _proxied(self, asked: Asked) -> Answer:
        data = self.contents.objects.get(f"{ROOT}/{asked.path.partition('/artifacts/')[2]}")
        if data is None:
            return Answer.json({"error_code": "INTERNAL_ERROR", "message": "NoSuchKey"}, 500)
        return Answer(200, {"Content-Type": "application/octet-stream"}, data)

    # S3

    def _s3(self, asked: Asked) -> Answer:
        signed = "authorization" in asked.headers or "X-Amz-Signature" in asked.query
        if not signed:
            return Answer.failure("AccessDenied", "Access Denied", 403)
        if asked.endpoint == "s3-listing":
            return self._keys(asked.query)
        return self._object(asked)

    def _keys(self, query: Mapping[str, str]) -> Answer:
        keys = sorted(key for key in self.contents.objects if key.startswith(query.get("prefix", "")))
        size = min(int(query.get("max-keys", PAGE)), PAGE)
        token = query.get("continuation-token", "0")
        if not token.isdigit():
            return Answer.failure("InvalidArgument", "The continuation token provided is incorrect", 400)
        start = int(token)
        page, more = keys[start : start + size], len(keys) > start + size
        entries = "".join(self._entry(key) for key in page)
        token = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if more else ""
        return Answer.xml(
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
            f"<Prefix>{escape(query.get('prefix', ''))}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{size}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{entries}{token}</ListBucketResult>"
        )

    def _entry(self, key: str) -> str:
        data = self.contents.objects[key]
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-10-05T07:00:00.000Z</LastModified>"
            f"<ETag>&quot;{etag_of(data)}&quot;</ETag><Size>{len(data)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _object(self, asked: Asked) -> Answer:
        data = self.contents.objects.get(asked.path.removeprefix(f"/{BUCKET}/"))
        if data is None:
            return Answer.failure("NoSuchKey", "The specified key does not exist.", 404)
        return ranged(data, asked.headers)


_MLFLOW = {
    "/version": "version",
    "/api/2.0/mlflow/registered-models/alias": "alias",
    "/api/2.0/mlflow/model-versions/get-download-uri": "place",
    "/api/2.0/mlflow/runs/get": "run",
    "/api/2.0/mlflow/model-versions/search": "search",
    "/api/2.0/mlflow/model-versions/set-tag": "tag",
    "/api/2.0/mlflow/model-versions/delete-tag": "tag",
    "/api/2.0/mlflow/experiments/search": "experiments",
    "/api/2.0/mlflow-artifacts/artifacts": "listing",
}


def _endpoint(server: str, target: str) -> str:
    parts = urlsplit(target)
    if server in ("elsewhere", "prometheus"):
        return server
    if server == "s3":
        return "s3-listing" if "list-type=" in parts.query else "object"
    if parts.path in _MLFLOW:
        return _MLFLOW[parts.path]
    for part, endpoint in (
        ("/mlflow-artifacts/presigned/", "presigned"),
        ("/mlflow-artifacts/artifacts/", "proxied"),
        ("/mlflow/logged-models/", "logged"),
    ):
        if part in parts.path:
            return endpoint
    return "other"


class _Server(ThreadingHTTPServer):
    """One of the servers; does its part of TLS in the thread of the connection."""

    request_queue_size = 50

    def __init__(self, site: HostileSite, name: str, tls: ssl.SSLContext | None) -> None:
        self.site, self.name, self._tls = site, name, tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, host: str) -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(10)
            with secured_by(request, self._tls) as secure:
                super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up as they like; what else goes wrong is noted where it happens."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        site = self.server.site
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = site.note(self.server.name, self.command, self.path, headers)
        wire = Wire(self.connection, site.stopping)
        del body
        try:
            answer = dated(site.answer(asked))
            if not (site.hostile and site.hostile.do(site, asked, answer, wire)):
                wire.answer(answer.status, answer.headers, answer.body)
        except OSError:
            self.close_connection = True
        except Exception as error:
            site.defects.append(f"{asked.endpoint} {asked.target}: {type(error).__name__}: {error}")
            self.close_connection = True
        self.close_connection = self.close_connection or wire.over

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do_HEAD = answer  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


def dated(answer: Answer) -> Answer:
    """Return an answer with the time, as every server gives it."""
    return answer.changed(Date=formatdate(time.time(), usegmt=True))
