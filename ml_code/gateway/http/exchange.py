"""One request and its answer."""

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
    """A request on its way, with all that its log line and metrics need.

    Attributes:
        request_id: the client's ``X-Request-Id``, or a new one.
        model: the model that was asked, once it is known to exist; empty for other requests.
        live: the model's live version when the request came; an unanswered request counts for it.
        version: the version that answered, or whose signature refused the request; empty before.
        outcome: ``ok``, or the outcome of a GatewayError.
        status: HTTP status of the response; 0 before it started.
        why: the refusal's text, for the log.
        body: the request's body, for requests that have one.
        rows: number of rows: the first size of the first input; 0 when it is not known.
        waiting: whether the request waits for its turn, so that no model has been asked yet.
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
        self.rows = 0
        self.waiting = False

    def asks(self, model: str, live: str) -> None:
        """Note the model that is asked, and its live version."""
        self.model, self.live = model, live

    async def send(self, message: Message) -> None:
        """ASGI's send; adds the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self.request_id)]
            if self.version:
                headers.append((b"x-model-version", self.version.encode()))
            message = {**message, "headers": headers}
        await self.send_raw(message)

    async def respond(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send a whole response."""
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})
        # In pieces: the server copies each piece that it gets.
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
        """Send JSON that ``written`` returned."""
        length = b"%d" % len(body)
        await self.respond(
            status, body, [(b"content-type", b"application/json"), (b"content-length", length), *headers]
        )

    def refusal(self, error: GatewayError) -> tuple[dict[str, object], dict[str, str]]:
        """Note a refusal, and return its content and headers; KServe v2 clients read ``error``."""
        self.outcome, self.why = error.outcome, error.message
        content: dict[str, object] = {"error": error.message, "request_id": self.request_id.decode()}
        if error.problems:
            content["fields"] = [{"field": p.field, "problem": p.problem} for p in error.problems]
        headers = dict(error.headers)
        if self.body is not None and not self.body.complete:
            # The rest of the body stays unread, so no other request can follow on this connection.
            headers["Connection"] = "close"
        return content, headers

    async def refuse(self, error: GatewayError) -> None:
        """Send a refusal, unless an answer has begun."""
        content, headers = self.refusal(error)
        if not self.status:
            lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await self.respond_json(error.status, content, lines)


def written(content: object) -> bytes:
    """Return the content of a response as JSON; numpy arrays are lists."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
