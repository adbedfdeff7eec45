"""A server that answers each connection with the bytes of a test."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Say = Callable[[socket.socket], None]
"""Answers one request on a connection, which is closed after it."""


@dataclass
class Plain:
    """A server under way.

    Attributes:
        url: its address.
        requests: the raw requests.
    """

    url: str = ""
    requests: list[str] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        """Method and path of each request."""
        return [" ".join(request.split()[:2]) for request in self.requests]


@contextmanager
def plain_server(say: Callable[[str], Say], tls: ssl.SSLContext | None = None) -> Iterator[Plain]:
    """Serve; ``say`` gets the head of a request and returns its answer."""
    plain = Plain()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        plain.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"
        threading.Thread(target=_accept, args=(listening, plain, say, tls), daemon=True).start()
        yield plain
        # Closing does not wake a thread that waits for the next connection.
        listening.shutdown(socket.SHUT_RDWR)


def _accept(
    listening: socket.socket, plain: Plain, say: Callable[[str], Say], tls: ssl.SSLContext | None
) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_serve, args=(connection, plain, say, tls), daemon=True).start()


def _serve(
    connection: socket.socket, plain: Plain, say: Callable[[str], Say], tls: ssl.SSLContext | None
) -> None:
    with suppress(OSError), connection, secured_by(connection, tls) as secured:
        head = b""
        while b"\r\n\r\n" not in head:
            # A client of another protocol gets an answer, too.
            if not (data := secured.recv(65536)) or (not head and not data[:1].isalpha()):
                break
            head += data
        plain.requests.append(head.decode("latin-1"))
        say(head.decode("latin-1"))(secured)
        secured.shutdown(socket.SHUT_WR)
        secured.recv(1)


def secured_by(connection: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    """Return a connection after the server's part of TLS; whoever is refused hears why. Without TLS, return it as it is."""
    if tls is None:
        return connection
    secured = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        secured.do_handshake()
    except OSError:
        # What was said of it would be lost if the connection were closed with something unread.
        with suppress(OSError):
            secured.shutdown(socket.SHUT_WR)
            socket.socket.recv(secured, 65536)
        secured.close()
        raise
    return secured


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Say:
    """Return a whole answer; underscores in the names of headers are hyphens."""
    named: Mapping[str, str] = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
    return sent(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1") + body)


def as_json(value: Any, status: int = 200) -> Say:
    return answer(status, json.dumps(value).encode(), Content_Type="application/json")


def sent(data: bytes) -> Say:
    return lambda connection: connection.sendall(data)


def dripping(data: bytes, pause_s: float, after: bytes = b"") -> Say:
    """Return what sends ``after`` at once, and then byte by byte."""

    def say(connection: socket.socket) -> None:
        connection.sendall(after)
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)

    return say


def path_of(request: str) -> str:
    """Return the path of a request without its query."""
    return urlsplit(request.split()[1]).path
