"""uvicorn's HTTP protocol, with limits for an application that strangers can reach.

The limits apply before any key is checked, so they have to cost next to nothing:

- the size of a URL, and of all bytes of a request besides its body: head, trailers, and framing of chunks;
- the time until a head is complete;
- the number of connections. At the limit, the connection that has been without a request for the longest is
  ended, so that silent connections keep no client out;
- the time after which a closed connection is cut off if its client does not read the answer.

Each answer is written with one system call. uvicorn writes head and body separately, and the second call
would cost as much as all of our Python.
"""

from __future__ import annotations

import asyncio
import json
import resource
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FLUSH_BYTES = 64 << 10
_FRAMING = 8
"""Allowed bytes of framing for each byte of a chunked body: a chunk of one byte has five."""
_BETWEEN = len(": \r\n")
"""Bytes of a header line besides name and value."""
_LINGER_S = 1.0
"""How long a refused client may go on sending, seconds: cut off at once, it would not see the refusal."""
_OTHER_FILES = 256
"""Open files of a process besides its connections."""
_UNREAD_S = 5.0
"""How long a closed connection waits for its client to read, seconds."""

_REFUSED = Counter(
    "gateway_refused_connections",
    "Connections that were ended before a request was complete.",
    ["reason"],
    registry=None,
)
METRICS = (_REFUSED,)
"""Metrics of this process, to be registered."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a connection.

    Attributes:
        head_bytes: largest head of a request, bytes.
        url_bytes: longest URL, bytes.
        head_timeout_s: longest time until a head is complete, from its first byte or from the beginning of
            the connection, seconds.
        connections: most connections of this process.
    """

    head_bytes: int = 32 << 10
    url_bytes: int = 8 << 10
    head_timeout_s: float = 10.0
    connections: int = 1000


def allow_connections(number: int) -> None:
    """Raise the limit of open files for this many connections, as many to the servers behind, and others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * number + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class CollectingTransport:
    """A transport that collects the writes of one turn of the event loop, and passes them on together.

    Args:
        transport: the real transport, which does everything else.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """See asyncio.WriteTransport; large pieces pass at once, and can slow the writer down."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _FLUSH_BYTES:
            self._flush()

    def close(self) -> None:
        """See asyncio.BaseTransport; bytes that the client does not read soon are dropped."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(_UNREAD_S, self._transport.abort)

    def _flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces:
            self._transport.write(b"".join(pieces))


class LimitedProtocol(HttpToolsProtocol):
    """One client's connection.

    Attributes:
        limits: limits of every connection of this process.
    """

    limits: ClassVar[Limits] = Limits()
    _without_request: ClassVar[dict[LimitedProtocol, None]] = {}
    """Connections without a request, the one that has been so for the longest time first."""

    _refused = False
    _head_due: asyncio.TimerHandle | None = None
    _in_head = False
    _head_at_most = 0
    _body_in_data = 0
    _of_body = 0
    _of_no_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(CollectingTransport(transport))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self._make_room()
        if self._refused:
            return
        self._without_request[self] = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._without_request.pop(self, None)
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._refused:
            return
        self._body_in_data = 0
        self._head_at_most = self._of_no_body + len(data)
        super().data_received(data)
        self._of_no_body += len(data) - self._body_in_data
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        if self._of_no_body > self.limits.head_bytes + _FRAMING * self._of_body:
            self._refuse_head()

    # httptools

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._in_head = True
        self._of_body = self._of_no_body = 0

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        if len(self.url) + len(url) > self.limits.url_bytes:
            self._refuse(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                "url",
                f"The URL is longer than {self.limits.url_bytes} bytes.",
            )
        if not self._refused:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools; trailers of a chunked body are dropped."""
        if self._in_head and not self._refused:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = False
        if self._refused:
            return
        limit = self.limits.head_bytes
        # Most heads are too small to need measuring.
        if self._head_at_most > limit and self._measured() > limit:
            self._refuse_head()
            return
        self._head_came()
        self._without_request.pop(self, None)
        super().on_headers_complete()

    def _measured(self) -> int:
        return sum(len(name) + len(value) + _BETWEEN for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._of_body += len(body)
        self._body_in_data += len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        if self.cycle.response_complete and not self._refused:
            self._without_request[self] = None
            if self._in_head:
                self._await_head()

    def _await_head(self) -> None:
        if self._head_due is None and not self._refused:
            self._head_due = self.loop.call_later(self.limits.head_timeout_s, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _head_is_late(self) -> None:
        self._head_due = None
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT,
            "slow",
            f"The head of the request was not complete within {self.limits.head_timeout_s:g} s.",
        )

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head",
            f"The head of the request is larger than {self.limits.head_bytes} bytes.",
        )

    def _make_room(self) -> None:
        """End the connection that has been idle for the longest; this one if all have requests."""
        oldest = next(iter(self._without_request), self)
        self._without_request.pop(oldest, None)
        oldest._refused = True
        oldest.transport.abort()
        _REFUSED.labels("connections").inc()

    def _refuse(self, status: HTTPStatus, reason: str, text: str) -> None:
        """End the connection; send the refusal if no answer is under way."""
        if self._refused:
            return
        self._refused = True
        _REFUSED.labels(reason).inc()
        self._head_came()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        self._without_request.setdefault(self)
        body = json.dumps({"error": text}).encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status.value, status.phrase.encode(), len(body), body)
        )
        self.loop.call_later(_LINGER_S, self.transport.abort)
