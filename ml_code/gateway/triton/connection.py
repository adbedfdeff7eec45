"""One HTTP/1.1 connection to a Triton, with an explicit state of request and answer.

The rest of an answer must not reach the next client. So a connection is used again only if its request was
sent whole, its answer arrived whole, and every byte of the answer was taken; otherwise it is closed. The
rule is httpcore's (``_response_closed``), the parser is uvicorn's (httptools).
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import httptools

from ..http.errors import BackendFailed

HELD_BYTES = 64 << 10
"""Bytes of an answer that are awaited before it is handed on; a smaller answer is awaited whole."""
_PAUSE_BYTES = 128 << 10
"""The connection is not read while this many bytes wait for a slow client."""


class Broken(Exception):
    """The connection ended before an answer began."""


class Side(enum.Enum):
    """The part of a request or an answer that has passed since the connection was idle."""

    IDLE = "nothing"
    OPEN = "a part"
    DONE = "all"


class Connection(asyncio.Protocol):
    """One connection; one request at a time.

    Attributes:
        request: the part of the request that was sent.
        answer: the part of the answer that has arrived.
        open: whether the connection can carry requests.
        idle_since: when its last request ended, seconds of the monotonic clock.
        status: HTTP status of the answer.
        headers: headers of the answer, names in lower case.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused = False
        self.open = True
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._held = 0
        self._arriving = self._kept = False
        self.request = self.answer = Side.IDLE
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def answered(self) -> bool:
        """Whether the whole answer has arrived."""
        return self.answer is Side.DONE

    # Used by the pool

    def send(self, data: bytes, *, whole: bool) -> None:
        """Begin a request.

        Args:
            data: head and body, or the beginning of the body.
            whole: whether this is the whole request.
        """
        assert self.request is Side.IDLE, "the connection is in use"
        self.request = Side.DONE if whole else Side.OPEN
        self._transport.write(data)

    async def send_more(self, data: bytes) -> None:
        """Send more of the body, as fast as Triton reads; ``await_head`` finds an early refusal."""
        if not self.open:
            return
        self._transport.write(data)
        if self._drained is not None:
            await self._drained

    def end_request(self) -> None:
        """Note that the whole body was sent."""
        self.request = Side.DONE

    async def await_head(self) -> None:
        """Wait for the whole answer, or the beginning of a large one.

        Raises:
            Broken: the connection ended before an answer began.
            BackendFailed: the connection ended within the answer.
        """
        while self.answer is not Side.DONE and self._held < HELD_BYTES:
            if not self.open:
                if self._arriving:
                    raise BackendFailed("Triton broke its answer off.")
                raise Broken
            await self._sleep()

    async def await_more(self) -> None:
        """Wait for more of the body; raises BackendFailed if the connection ends before the body does."""
        while self.answer is not Side.DONE and not self._held:
            if not self.open:
                raise BackendFailed("Triton broke its answer off.")
            await self._sleep()

    def take(self) -> bytes:
        """Return the part of the body that has arrived since the last call."""
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> bool:
        """End a request: make the connection idle if it is clean, else close it.

        Returns:
            Whether the connection can carry the next request.
        """
        done = self.request is Side.DONE and self.answer is Side.DONE and not self._held
        if self.open and done and self._kept:
            self._reset()
            return True
        self.close()
        return False

    def close(self) -> None:
        """End the connection at once, and lose the bytes on their way."""
        self.open = False
        self._transport.abort()
        self._wake()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.request is Side.IDLE:
            # Bytes without a request: they would be taken for the answer to the next one.
            self.close()
            return
        self._arriving = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
            return
        if self.answer is Side.DONE or self._held >= HELD_BYTES:
            self._wake()
            if self._held >= _PAUSE_BYTES and self.answer is not Side.DONE and not self._paused:
                self._paused = True
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.open = False
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # httptools

    def on_message_begin(self) -> None:
        """See httptools; a second answer to one request closes the connection."""
        if self.answer is Side.DONE:
            self.close()
        else:
            self.answer = Side.OPEN

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if self.open:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self.open:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self.open:
            self._pieces.append(body)
            self._held += len(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self.answer = Side.DONE
        self._kept = self._parser.should_keep_alive()

    async def _sleep(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
