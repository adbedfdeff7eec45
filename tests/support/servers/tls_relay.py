"""TLS in front of a server that speaks none: bytes pass as they are, so its answers, and what was signed for its address, stay what they were."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

from tests.support.servers.plain import secured_by

BLOCK_BYTES = 1 << 16


@contextlib.contextmanager
def tls_before(upstream: str, context: ssl.SSLContext) -> Iterator[str]:
    """Yield the ``https://`` address of a server.

    Args:
        upstream: its own ``http://`` address.
        context: the certificate that it is to have, and what it asks of clients.
    """
    host, _, port = upstream.removeprefix("http://").partition(":")
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        serving = threading.Thread(target=_accept, args=(listener, context, (host, int(port))), daemon=True)
        serving.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        # On Linux a closed listener goes on waiting in accept(2).
        listener.shutdown(socket.SHUT_RDWR)
    serving.join(10)


def _accept(listener: socket.socket, context: ssl.SSLContext, upstream: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_relay, args=(plain, context, upstream), daemon=True).start()


def _relay(plain: socket.socket, context: ssl.SSLContext, upstream: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        plain.settimeout(30)
        with (
            secured_by(plain, context) as client,
            socket.create_connection(upstream) as server,
        ):
            # Reading and writing one TLS connection from two threads is fine; OpenSSL locks it.
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(BLOCK_BYTES):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
