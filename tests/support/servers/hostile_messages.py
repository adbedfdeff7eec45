"""HTTP requests and answers as data, and the secrets of a client for the servers of hostile_site.py."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

USER = "deployer"
MODIFIED = "Mon, 05 Oct 2026 07:00:00 GMT"
SERVERS = ("mlflow", "s3", "elsewhere", "prometheus")

JSON, XML = "application/json", "application/xml"


@dataclass(frozen=True)
class Secrets:
    """What may be seen by the server that it is for, and in no output."""

    password: str = "Pa55-of-mlflow-7f3a"
    token: str = "t0ken-of-mlflow-91c2"
    s3_secret: str = "s3cretKey-0b7d4e"
    session: str = "s3ssion-of-sts-55aa"
    signature: str = hashlib.sha256(b"planted").hexdigest()
    prometheus: str = "Pa55-of-prometheus-c0de"
    notify: str = "n0tify-path-8d1e"

    @property
    def authorizations(self) -> tuple[str, str]:
        """What a client that has the password, or the token, sends to MLflow."""
        basic = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        return f"Basic {basic}", f"Bearer {self.token}"

    def texts(self) -> dict[str, str]:
        """Return every way in which one could be written, and what it is."""
        values = {**vars(self), "authorization": self.authorizations[0].removeprefix("Basic ")}
        return {text: name for name, value in values.items() for text in (value, quote(value, safe=""))}


SECRETS = Secrets()


@dataclass(frozen=True)
class Answer:
    """An answer of HTTP: its status, headers and body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def json(cls, body: object, status: int = 200) -> Answer:
        return cls(status, {"Content-Type": JSON}, json.dumps(body).encode())

    @classmethod
    def xml(cls, text: str, status: int = 200, **headers: str) -> Answer:
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
        return cls(status, {"Content-Type": XML, **headers}, body)

    @classmethod
    def failure(cls, code: str, message: str, status: int) -> Answer:
        """Return a refusal as S3 writes it."""
        return cls.xml(f"<Error><Code>{code}</Code><Message>{message}</Message></Error>", status)

    def changed(self, **headers: str) -> Answer:
        """Return it with other headers; ``_`` stands for ``-``."""
        return replace(self, headers={**self.headers, **{n.replace("_", "-"): v for n, v in headers.items()}})


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        server: one of SERVERS.
        endpoint: which of its endpoints, as twists name them.
        number: how often that endpoint has been asked, from 1.
        target: path and query, as they came.
        headers: by name in small letters.
    """

    server: str
    endpoint: str
    number: int
    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


def ranged(data: bytes, headers: Mapping[str, str]) -> Answer:
    """Return an object, or the range of it that was asked for, as S3 does."""
    validators = {"ETag": f'"{etag_of(data)}"', "Last-Modified": MODIFIED, "Accept-Ranges": "bytes"}
    wanted = headers.get("if-match")
    if wanted not in (None, "*", validators["ETag"]):
        return Answer.failure("PreconditionFailed", "At least one of the pre-conditions did not hold.", 412)
    common = {"Content-Type": "binary/octet-stream", **validators}
    text = headers.get("range")
    if text is None:
        return Answer(200, common, data)
    first, _, last = text.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
    if start > end:
        return Answer.failure("InvalidRange", "The requested range is not satisfiable", 416)
    return Answer(206, {**common, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1])


def etag_of(data: bytes) -> str:
    """Return the ETag that S3 gives an object, without its quotes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
