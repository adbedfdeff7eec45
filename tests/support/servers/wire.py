"""The server's end of a connection, on which an answer can be sent in every way that there is."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus

LONGEST_S = 60.0
"""Nothing goes on for longer: a client that has not gone by then is the test's failure."""


class Gone(ConnectionError):
    """The client has hung up, or the test is over."""


class Wire:
    """One connection, while one request is answered on it.

    Args:
        connection: its socket.
        stopping: set when the server ends.

    Attributes:
        over: no other request can be answered on it.
    """

    def __init__(self, connection: socket.socket, stopping: threading.Event) -> None:
        self._connection = connection
        self._stopping = stopping
        self._ends = time.monotonic() + LONGEST_S
        self.over = False

    def send(self, data: bytes) -> None:
        """Send bytes as they are; raises Gone if the client has gone."""
        self.alive()
        self._connection.sendall(data)

    def alive(self) -> None:
        """Raise Gone if the client has gone."""
        if self._stopping.is_set() or time.monotonic() > self._ends:
            raise Gone
        readable, _, _ = select.select([self._connection], [], [], 0)
        # TLS has its own bytes; a client that sends nothing more and has not hung up is not readable.
        if (
            readable
            and isinstance(self._connection, socket.socket)
            and type(self._connection) is socket.socket
        ):
            with contextlib.suppress(BlockingIOError):
                if not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    raise Gone

    def wait(self, seconds: float) -> None:
        """Keep silent for a while; raises Gone as soon as the client has gone."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.alive()
            time.sleep(min(0.05, left))
        self.alive()

    def head(self, status: int | str, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
        """Send the first part of an answer."""
        self.send(head_of(status, headers))

    def answer(self, status: int | str, headers: Mapping[str, str], body: bytes) -> None:
        """Send an answer with its length, in one piece where it is small."""
        given = {name.lower() for name in headers}
        length = {} if given & {"content-length", "transfer-encoding"} else {"Content-Length": str(len(body))}
        self.send(head_of(status, {**headers, **length}) + body)

    def drip(self, data: bytes, pause_s: float, count: int = 1) -> None:
        """Send bytes in pieces, with pauses between."""
        for start in range(0, len(data), count):
            self.send(data[start : start + count])
            self.wait(pause_s)

    def close(self) -> None:
        """Hang up as usual."""
        self.over = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Hang up as a machine does that was switched off and on again."""
        self.over = True
        # Close without waiting for sent data: the system answers RST.
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self._connection.close()


def head_of(status: int | str, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """Return the first part of an answer; a status that is a text is the whole first line."""
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Odd"
    first = status if isinstance(status, str) else f"HTTP/1.1 {status} {reason}"
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [first, *(f"{name}: {value}" for name, value in pairs), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")
