"""A network that breaks on purpose: a proxy between client and server that applies a fault to the bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

POLL_S = 0.01
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Fault:
    """A fault of the network; without arguments, no fault.

    Attributes:
        reset: every connection is reset, new ones as soon as they are made.
        stall: nothing passes in either direction; what was sent passes when the fault is over.
        lose_answers: what clients send passes, what the server answers is lost.
        truncate_after: answer bytes that still pass on each connection before it is reset, or None.
        once: the fault is over when it has truncated one connection.
        bytes_per_s: answers pass at this rate, or None for as fast as they come.
    """

    reset: bool = False
    stall: bool = False
    lose_answers: bool = False
    truncate_after: int | None = None
    once: bool = False
    bytes_per_s: float | None = None


NONE = Fault()
RESET = Fault(reset=True)
STALL = Fault(stall=True)
LOSE_ANSWERS = Fault(lose_answers=True)


class TcpProxy:
    """Passes TCP connections on; ``fault`` may be set at any time and concerns open connections as well.

    Args:
        upstream: ``host:port`` of the server.
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._fault = NONE
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def fault(self) -> Fault:
        """The present fault."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.answered_bytes = 0
        if fault.reset:
            self.cut()

    def cut(self) -> None:
        """Reset the connections that are open now."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.reset()

    def close(self) -> None:
        """Stop listening, and reset open connections."""
        # Wakes up the thread that waits for a connection; closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.discard(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._fault.reset:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._upstream)
            except OSError:
                _reset(client)
                continue
            connection = _Connection(self, client, server)
            with self._lock:
                self._connections.add(connection)
            connection.start()


class _Connection:
    """One connection of a client with the one to the server that belongs to it."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._over = threading.Event()
        self.answered_bytes = 0
        """Since the fault was set."""

    def start(self) -> None:
        for source, target in ((self._client, self._server), (self._server, self._client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def reset(self) -> None:
        """End both sides at once, as a network does that is gone."""
        self._over.set()
        _reset(self._client)
        _reset(self._server)
        self._proxy.forget(self)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        answers = source is self._server
        try:
            while block := source.recv(BLOCK_BYTES):
                while self._proxy.fault.stall and not self._over.is_set():
                    time.sleep(POLL_S)
                if answers:
                    self._answer(block)
                else:
                    target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self.reset()

    def _answer(self, block: bytes) -> None:
        for piece in self._paced(block):
            fault = self._proxy.fault
            if fault.lose_answers:
                return
            left = len(piece)
            if fault.truncate_after is not None:
                left = min(left, fault.truncate_after - self.answered_bytes)
            self._client.sendall(piece[:left])
            self.answered_bytes += left
            if left < len(piece):
                if fault.once:
                    self._proxy.fault = NONE
                raise ConnectionResetError("as the fault wants it")

    def _paced(self, block: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(block):
            rate = self._proxy.fault.bytes_per_s
            step = len(block) if rate is None else max(1, int(rate * POLL_S))
            if rate is not None:
                self._over.wait(step / rate)
            yield block[start : start + step]
            start += step


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Closing with a linger time of zero sends RST instead of FIN; see socket(7), SO_LINGER.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Wakes up a thread that waits for this end.
        end.shutdown(socket.SHUT_RD)
    end.close()


@contextlib.contextmanager
def proxy_to(upstream: str) -> Iterator[TcpProxy]:
    """A proxy in front of ``host:port`` while the block runs."""
    proxy = TcpProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
