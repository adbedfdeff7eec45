"""One request and its answer: what is known about it until the end, and the response's start."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Iterable

import orjson
from starlette.types import Message, Scope, Send

from .body import Body
from .errors import GatewayError

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

_PIECE_BYTES = 64 << 10
_PROCESS = secrets.token_hex(8).encode()
_NUMBERS = itertools.count(1)


class Exchange:
    """What the log line and the metrics of a request are made of.

    Attributes:
        request_id: the client's ``X-Request-Id``, or a new one.
        model: model that was asked, once it is known to exist; empty for other requests.
        live: its version that was live when the request came: one that nobody answered is that one's.
        version: version that answered, or against which the request was refused; empty when none did.
        outcome: ``ok`` or a GatewayError's.
        status: HTTP status of the response; 0 before it started.
        why: the refusal's text, for the log.
        body: the request's body, once somebody reads it.
        sending: whether a part of the response waits for the client to read.
        rows: how many rows were asked about: the first size of the first input; 0 when that is not known.
        waiting: whether it waits for its turn, so that no model has been asked yet.
    """

    __slots__ = (
        "began",
        "body",
        "live",
        "model",
        "outcome",
        "request_id",
        "rows",
        "scope",
        "send_raw",
        "sending",
        "status",
        "version",
        "waiting",
        "why",
    )

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began = time.perf_counter()
        self.scope = scope
        self.send_raw = send
        self.request_id = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                self.request_id = value
        self.request_id = self.request_id or b"%s-%x" % (_PROCESS, next(_NUMBERS))
        self.model = ""
        self.live = ""
        self.version = ""
        self.outcome = "ok"
        self.status = 0
        self.why = ""
        self.body: Body | None = None
        self.sending = False
        self.rows = 0
        self.waiting = False

    def asks(self, model: str, live: str) -> None:
        """Note which model is asked, and which version of it is live now."""
        self.model, self.live = model, live

    async def send(self, message: Message) -> None:
        """ASGI's send; adds the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self.request_id)]
            if self.version:
                headers.append((b"x-model-version", self.version.encode()))
            message = {**message, "headers": headers}
        self.sending = True
        await self.send_raw(message)
        self.sending = False

    async def respond(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send a whole response."""
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})
        # In pieces: what is given to the server at once it copies.
        sent = 0
        while len(body) - sent > _PIECE_BYTES:
            piece = body[sent : sent + _PIECE_BYTES]
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += _PIECE_BYTES
        await self.send({"type": "http.response.body", "body": body[sent:]})

    async def respond_json(
        self, status: int, content: object, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send a JSON response."""
        await self.respond_written(status, written(content), headers)

    async def respond_written(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send a JSON response that ``written`` made."""
        length = b"%d" % len(body)
        await self.respond(
            status, body, [(b"content-type", b"application/json"), (b"content-length", length), *headers]
        )

    def refusal(self, error: GatewayError) -> tuple[dict[str, object], dict[str, str]]:
        """Note a refusal, and return its content and headers; ``error`` is where KServe v2 clients look for the text."""
        self.outcome, self.why = error.outcome, error.message
        content: dict[str, object] = {"error": error.message, "request_id": self.request_id.decode()}
        if error.problems:
            content["fields"] = [{"field": p.field, "problem": p.problem} for p in error.problems]
        headers = dict(error.headers)
        if self.body is not None and not self.body.complete:
            # The rest of the body is not read: nothing else can follow on this connection.
            headers["Connection"] = "close"
        return content, headers

    async def refuse(self, error: GatewayError) -> None:
        """Send a refusal, unless an answer has begun."""
        content, headers = self.refusal(error)
        if not self.status:
            lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await self.respond_json(error.status, content, lines)


def written(content: object) -> bytes:
    """Return a response's content as JSON."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
