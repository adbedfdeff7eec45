"""HTTP/1.1 to the Tritons: connections that are kept, the least busy server first, repeats only where they are safe.

A small client of our own on httptools (the parser that uvicorn uses): a request through it costs a fifth of one through
aiohttp, which decides whether the gateway adds 0.2 ms or 0.45 (docs/adr/0006).

What is repeated, always on another server where there is one:

- a connection that could not be made: nothing was sent;
- an answer that says that the model is not there (yet): nothing was computed. It happens while a Triton starts or stops;
- once, a connection that ended before an answer began, if the whole request is still here. Inference changes nothing, so
  computing it twice is safe; but only once, so that a request that ends a Triton can't work its way through all of them.

A time-out is never repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httptools

from .errors import BackendFailed, Unavailable

_HELD_BYTES = 64 << 10
"""An answer up to this size is complete when it is handed on; of a larger one, this much is there."""
_PAUSE_BYTES = 512 << 10
_AWAY_S = 1.0
"""How long a server that could not be used is asked last."""


class Broken(Exception):
    """The connection ended before an answer began."""


class Reply:
    """An answer of Triton.

    Attributes:
        status: HTTP status.
        headers: as they came, names in lower case.
        head: the body, or its beginning when it is large.
        complete: whether ``head`` is the whole body.
    """

    __slots__ = ("_connection", "complete", "head", "headers", "status")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers
        self.head = connection.take()
        self.complete = connection.complete

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield what follows ``head``; raises BackendFailed when the connection ends before the body does."""
        while not self.complete:
            await self._connection.wait()
            self.complete = self._connection.complete
            piece = self._connection.take()
            if piece:
                yield piece


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._paused = False
        self.used = False
        self.open = True
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.answered = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.answered = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
            return
        if self.complete or self._held >= _HELD_BYTES:
            self._wake()
            if self._held >= _PAUSE_BYTES and not self.complete and not self._paused:
                self._paused = True
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        self.complete = True
        if not self._parser.should_keep_alive():
            self.close()

    # What Server uses

    def send(self, data: bytes) -> None:
        """Begin a request."""
        self._begin()
        self._transport.write(data)

    async def send_more(self, data: bytes) -> None:
        """Go on with its body, at the pace at which Triton reads; a refusal that came early is found by ``reply``."""
        if not self.open:
            return
        self._transport.write(data)
        if self._drained is not None:
            await self._drained

    async def reply(self) -> Reply:
        """Wait for the answer, or the beginning of a large one; raises Broken when there is none."""
        while not (self.complete or self._held >= _HELD_BYTES):
            if not self.open:
                if self.answered:
                    raise BackendFailed("Triton broke its answer off.")
                raise Broken
            await self._sleep()
        return Reply(self)

    async def wait(self) -> None:
        """Wait for more of the body."""
        while not (self.complete or self._held):
            if not self.open:
                raise BackendFailed("Triton broke its answer off.")
            await self._sleep()

    def take(self) -> bytes:
        """Return what of the body has arrived."""
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        self.open = False
        self._transport.close()
        self._wake()

    async def _sleep(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Server:
    """One Triton and the connections to it.

    Args:
        address: ``host:port``.
        connect_timeout_s: longest wait for a connection, seconds.
    """

    def __init__(self, address: str, connect_timeout_s: float) -> None:
        self.address = address
        self._host, _, port = address.rpartition(":")
        self._host = self._host.strip("[]")
        self._port = int(port)
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[_Connection] = deque()
        self.busy = 0
        self.away_until = 0.0
        self.host_header = b"Host: " + address.encode() + b"\r\n"

    async def connection(self) -> _Connection:
        """Return an idle connection or a new one; raises OSError or TimeoutError when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                connection.used = True
                return connection
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(lambda: _Connection(loop), self._host, self._port)
        return connection

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next request if its answer was read to the end; else close it."""
        if connection.open and connection.complete:
            self._idle.append(connection)
        elif connection.open:
            connection.close()

    def is_away(self) -> None:
        """Ask this server last for a while, and not on connections that are older."""
        self.away_until = time.monotonic() + _AWAY_S
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


class Lease:
    """A reply and the connection that it comes on; a context manager that gives the connection back.

    Attributes:
        reply: the answer.
        server: who gave it.
    """

    __slots__ = ("_connection", "reply", "server")

    def __init__(self, server: Server, connection: _Connection, reply: Reply) -> None:
        self.server = server
        self._connection = connection
        self.reply = reply

    def __enter__(self) -> Reply:
        return self.reply

    def __exit__(self, *_: object) -> None:
        self.server.give_back(self._connection)
        self.server.busy -= 1


class Tritons:
    """Every Triton on the repository.

    Args:
        addresses: ``host:port`` of each.
        connect_timeout_s: longest wait for a connection, seconds.
    """

    def __init__(self, addresses: Sequence[str], connect_timeout_s: float) -> None:
        self._servers = [Server(address, connect_timeout_s) for address in addresses]
        self._turn = 0

    async def ask(
        self,
        method: str,
        path: str,
        headers: bytes = b"",
        body: bytes = b"",
        more: AsyncIterator[bytes] | None = None,
        *,
        candidate: bool = False,
    ) -> Lease:
        """Send a request and return the answer; what is repeated says the module.

        Args:
            method: HTTP method.
            path: path, from ``v2_routes``.
            headers: further header lines, ``Content-Length`` among them.
            body: the body, or its beginning.
            more: the rest of a body that is not held; such a request is not repeated.
            candidate: it is for a version that is not live: one that ends a Triton or is not there must not tell against the
                server, nor be tried on the next.

        Raises:
            Unavailable: no server took it.
            BackendFailed: an answer was broken off.
        """
        line = f"{method} {path} HTTP/1.1\r\n".encode()
        broken = 0
        last: Lease | None = None
        for server in self._order():
            try:
                lease = await self._ask(server, line + server.host_header + headers + b"\r\n" + body, more)
            except Broken:
                server.is_away()
                broken += 1
                if broken > 1 or more is not None or candidate:
                    break
                continue
            except (OSError, TimeoutError):
                server.is_away()
                continue
            if not _says_it_is_not_there(path, lease.reply):
                if last is not None:
                    last.__exit__()
                return lease
            if not candidate:
                server.away_until = time.monotonic() + _AWAY_S
            if last is not None:
                last.__exit__()
            last = lease
            if more is not None:
                break
        if last is not None:
            return last
        raise Unavailable("No Triton can be reached. Try again.")

    def close(self) -> None:
        """Close the idle connections."""
        for server in self._servers:
            server.close()

    async def _ask(self, server: Server, request: bytes, more: AsyncIterator[bytes] | None) -> Lease:
        server.busy += 1
        try:
            connection = await server.connection()
            try:
                connection.send(request)
                if more is not None:
                    async for piece in more:
                        await connection.send_more(piece)
                return Lease(server, connection, await connection.reply())
            except BaseException:
                # A cancelled request's answer is still to come: the connection can't be used again.
                connection.close()
                raise
        except BaseException:
            server.busy -= 1
            raise

    def _order(self) -> list[Server]:
        """Return the servers, the one to ask first first; with one server, it is asked twice."""
        servers = self._servers
        if len(servers) == 1:
            return servers * 2
        self._turn += 1
        now, turn = time.monotonic(), self._turn
        rotated = servers[turn % len(servers) :] + servers[: turn % len(servers)]
        return sorted(rotated, key=lambda server: (server.away_until > now, server.busy))


def _says_it_is_not_there(path: str, reply: Reply) -> bool:
    """Whether a Triton that starts, stops or has lost the model refused without computing anything."""
    if reply.status == 200 or not reply.complete:
        return False
    return (
        reply.status == 503
        or path.endswith("/ready")
        or (reply.status in (400, 404) and b"unknown model" in reply.head)
    )
