"""KServe v2 with Triton: forwards the checked part of a request, and passes answers on as they are."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

from starlette.types import Receive

from ..http.admission import Admission
from ..http.body import Body
from ..http.errors import BackendFailed, Malformed, TooLarge, Unavailable, UnknownPath
from ..http.exchange import Exchange
from ..http.strict_json import encode
from ..settings import GatewaySettings
from ..v2.guard import check_request, rows_of
from ..v2.routes import Route
from .pool import Reply
from .release_follower import ReleaseFollower
from .upstream import UNPARSED, Tritons
from .versions import Question, Versions

REPLAY_BYTES = 1 << 20
"""A larger binary body is streamed and not held, so it can't be repeated on another Triton."""

# Triton writes the client's id first, if there is one, then the model's name and version, then everything
# else. The pattern matches whole strings, so an id can't pass for a version.
_VERSION = re.compile(
    rb'\s*\{(?:\s*"(?:id|model_name)"\s*:\s*"(?:[^"\\]|\\.)*"\s*,)*\s*"model_version"\s*:\s*"([0-9]{1,18})"'
)
_PASSED = frozenset((b"content-type", b"content-length", b"inference-header-content-length"))


def version_of(head: bytes) -> str:
    """Return the version that answered, read from the beginning of Triton's answer without parsing the rest.

    Raises:
        BackendFailed: the answer does not name its version.
    """
    match = _VERSION.match(head)
    if match is None:
        raise BackendFailed("Triton's answer does not say which version gave it.")
    return match[1].decode()


class V2Forward:
    """Answers v2 requests by asking the Tritons.

    Args:
        settings: limits.
        tritons: the servers.
        follower: knows the models.
        admission: grants turns and memory.
        versions: choose the version that answers.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        tritons: Tritons,
        follower: ReleaseFollower,
        admission: Admission,
        versions: Versions,
    ) -> None:
        self._settings = settings
        self._tritons = tritons
        self._follower = follower
        self._admission = admission
        self._versions = versions

    async def answer(self, route: Route, exchange: Exchange, receive: Receive) -> None:
        """Answer one request; raises GatewayError to refuse it."""
        if route.model:
            followed = self._follower.get(route.model)
            if followed is None:
                raise UnknownPath(f"There is no live model {route.model}.")
            exchange.asks(route.model, str(followed.release.active_version))
        if route.kind == "infer":
            await self._infer(route, exchange, receive)
        elif route.kind == "server_live":
            await exchange.respond(200, b"", [(b"content-length", b"0")])
        else:
            with await self._tritons.ask("GET", route.path) as reply:
                exchange.model = ""
                await self._pass_on(route, exchange, reply)

    async def _infer(self, route: Route, exchange: Exchange, receive: Receive) -> None:
        settings = self._settings
        body = Body(receive, exchange.scope["headers"], settings.max_body_bytes, self._admission)
        exchange.body = body
        try:
            headers, begun, more = await self._checked(exchange, body)
            asked = self._question(route, exchange, headers, begun, more)
            asked_at = time.perf_counter()
            with await self._forward(exchange, asked) as reply:
                took_s = time.perf_counter() - asked_at
                if reply.status == 200:
                    exchange.version = version_of(reply.head)
                self._versions.answered(asked, reply, took_s)
                # The body was needed for a repeat only: a client that reads slowly does not hold its memory.
                del begun, asked
                body.release()
                await self._pass_on(route, exchange, reply)
        finally:
            body.release()

    async def _checked(
        self, exchange: Exchange, body: Body
    ) -> tuple[bytes, bytes, AsyncIterator[bytes] | None]:
        """Check the JSON part; return headers and body for Triton, and the rest of a streamed body."""
        settings = self._settings
        json_part, announced = body.json_length, body.announced or 0
        if (announced if json_part is None else json_part) > settings.max_json_bytes:
            raise TooLarge(
                f"The JSON part of the body is larger than {settings.max_json_bytes} bytes; send tensors as binary data."
            )
        streams = json_part is not None and announced > REPLAY_BYTES
        # A chunked body is sent with a length: many tiny chunks have ended Tritons (CVE-2025-23310).
        begun = await body.read(json_part if streams else None)
        if json_part is None and len(begun) > settings.max_json_bytes:
            raise TooLarge(f"The JSON body is larger than {settings.max_json_bytes} bytes.")
        if not streams:
            announced = len(begun)
        allow_nan = settings.nan_policy == "allow"
        request = check_request(
            begun,
            json_part,
            announced,
            max_json_bytes=settings.max_json_bytes,
            max_depth=settings.max_json_depth,
            allow_nan=allow_nan,
        )
        exchange.rows = rows_of(request)
        text = encode(request, allow_nan=allow_nan)
        size = announced if json_part is None else json_part
        headers = _headers(len(text) + announced - size, None if json_part is None else len(text))
        tensors = begun[size:]
        return headers, text + tensors if tensors else text, None if body.complete else _rest(body)

    def _question(
        self,
        route: Route,
        exchange: Exchange,
        headers: bytes,
        begun: bytes,
        more: AsyncIterator[bytes] | None,
    ) -> Question:
        # The live version alone answers a request that names a version, or whose body is streamed: no
        # second version could answer it.
        if not route.version and more is None:
            return self._versions.question(route.model, exchange, headers, begun)
        return Question(model=route.model, path=route.path, headers=headers, body=begun, more=more)

    async def _forward(self, exchange: Exchange, asked: Question) -> Reply:
        await self._admission.enter_for(exchange)
        try:
            return await self._versions.ask(asked)
        except asyncio.CancelledError:
            self._versions.late(asked)
            raise
        finally:
            self._admission.leave()

    async def _pass_on(self, route: Route, exchange: Exchange, reply: Reply) -> None:
        if reply.status == 503 or (reply.status in (400, 404) and b"unknown model" in reply.head):
            if route.version:
                raise UnknownPath(f"Version {route.version} of {route.model} is not what is served.")
            raise Unavailable("No Triton has the model ready. Try again.")
        if reply.status == 500 and UNPARSED.match(reply.head):
            # Triton answers 500 to some mistakes of clients.
            raise Malformed(f"Triton can't read the request: {reply.head[:500].decode(errors='replace')}")
        if reply.status != 200:
            exchange.outcome = "refused" if reply.status < 500 else "failed"
            exchange.why = reply.head[:300].decode(errors="replace")
        headers = [header for header in reply.headers if header[0] in _PASSED]
        await exchange.send({"type": "http.response.start", "status": reply.status, "headers": headers})
        head = exchange.scope["method"] == "HEAD"
        await exchange.send(
            {
                "type": "http.response.body",
                "body": b"" if head else reply.head,
                "more_body": not reply.complete,
            }
        )
        if not reply.complete:
            async for piece in reply.rest():
                await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
            await exchange.send({"type": "http.response.body", "body": b""})


def _headers(length: int, json_length: int | None) -> bytes:
    headers = b"Content-Length: %d\r\nContent-Type: application/octet-stream\r\n" % length
    if json_length is not None:
        headers += b"Inference-Header-Content-Length: %d\r\n" % json_length
    return headers


async def _rest(body: Body) -> AsyncIterator[bytes]:
    while piece := await body.chunk():
        yield piece
