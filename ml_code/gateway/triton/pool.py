"""One Triton as the gateway sees it: its connections, its load, and the answer to one request."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from .connection import Connection

AWAY_S = 1.0
"""How long a server that failed is asked last, seconds."""


class Pool:
    """The connections to one Triton.

    Args:
        address: ``host:port``.
        connect_timeout_s: longest wait for a connection, seconds.

    Attributes:
        address: ``host:port``.
        host_header: the header line with the address.
        busy: number of requests that the server has now.
        away_until: until then the server is asked last, seconds of the monotonic clock.
    """

    def __init__(self, address: str, connect_timeout_s: float) -> None:
        self.address = address
        self._host, _, port = address.rpartition(":")
        self._host = self._host.strip("[]")
        self._port = int(port)
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[Connection] = deque()
        self.busy = 0
        self.away_until = 0.0
        self.host_header = b"Host: " + address.encode() + b"\r\n"

    async def ask(
        self, request: bytes, more: AsyncIterator[bytes] | None = None, idle_s: float = math.inf
    ) -> Reply:
        """Send a request, and return its answer or the beginning of a large one.

        Args:
            request: head and body, or the beginning of the body.
            more: the rest of the body.
            idle_s: longest idle time of the connection, seconds.

        Raises:
            OSError, TimeoutError: there is no connection; nothing was sent.
            Broken: the connection ended before an answer began.
            BackendFailed: the connection ended within the answer.
        """
        self.busy += 1
        connection = None
        try:
            connection = await self._connection(idle_s)
            connection.send(request, whole=more is None)
            if more is not None:
                async for piece in more:
                    await connection.send_more(piece)
                connection.end_request()
            await connection.await_head()
            return Reply(self, connection)
        except BaseException:
            # The answer to a cancelled request is still to come, so the connection can't be used again.
            if connection is not None:
                connection.close()
            self.busy -= 1
            raise

    def give_back(self, connection: Connection) -> None:
        """Take a connection back at the end of its request."""
        self.busy -= 1
        if connection.finish():
            connection.idle_since = time.monotonic()
            self._idle.append(connection)

    def is_away(self) -> None:
        """Ask this server last for a while, and only on new connections."""
        self.asked_last()
        self.close()

    def asked_last(self) -> None:
        """Ask this server last for a while."""
        self.away_until = time.monotonic() + AWAY_S

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self, idle_s: float) -> Connection:
        # The last connection has been idle for the shortest time.
        while self._idle and time.monotonic() - self._idle[-1].idle_since <= idle_s:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(lambda: Connection(loop), self._host, self._port)
        return connection


class Reply:
    """An answer of Triton, and its connection; a context manager that gives the connection back.

    Attributes:
        status: HTTP status.
        headers: headers as they came, names in lower case.
        head: the body, or the beginning of a large one.
        complete: whether ``head`` is the whole body.
    """

    __slots__ = ("_connection", "_pool", "complete", "head", "headers", "status")

    def __init__(self, pool: Pool, connection: Connection) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self.status = connection.status
        self.headers = connection.headers
        self.head = connection.take()
        self.complete = connection.answered

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield the body after ``head``; raises BackendFailed if the connection ends before the body does."""
        connection = self._connection
        while not self.complete and connection is not None:
            await connection.await_more()
            self.complete = connection.answered
            piece = connection.take()
            if piece:
                yield piece

    def close(self) -> None:
        """Give the connection back, with the answer read to its end or not; further calls do nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def renamed(reply: Reply, engine: str, model: str) -> None:
    """Replace the name of an engine by the model's public name, and correct the lengths.

    The client's id comes before the name. Its quotes are escaped, so an id can't be taken for the name.

    Args:
        reply: an answer of the engine; changed in place.
        engine: the engine's name, as Triton wrote it.
        model: public model name.
    """
    said, meant = (f'"model_name":"{name}"'.encode() for name in (engine, model))
    if said not in reply.head:
        return
    reply.head = reply.head.replace(said, meant, 1)
    less = len(said) - len(meant)
    reply.headers = [
        (name, b"%d" % (int(value) - less))
        if name in (b"content-length", b"inference-header-content-length")
        else (name, value)
        for name, value in reply.headers
    ]
