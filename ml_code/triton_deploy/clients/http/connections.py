"""Connections with one time limit for a whole exchange, where the HTTP libraries limit each read alone.

A server that sends one byte within each limit would hold a request for ever. The sockets of this module
count from the moment when their limit was set. Names are resolved in a thread, because a lookup takes no
time limit.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import Timeout
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from ...errors import Unavailable
from . import deadline

SHORTEST_S = 0.001
"""Shortest limit, seconds: the libraries refuse a limit of 0."""


class _Limited:
    """A socket on which ``settimeout`` limits all later operations together."""

    _until_s: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._until_s = None if value is None else time.monotonic() + value
        super().settimeout(value)  # type: ignore[misc]

    def _spend(self) -> None:
        if self._until_s is not None:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            super().settimeout(left_s)  # type: ignore[misc]

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self._spend()
        return int(super().recv_into(*args, **kwargs))  # type: ignore[misc]

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._spend()
        return int(super().send(*args, **kwargs))  # type: ignore[misc]


class _Socket(_Limited, socket.socket):
    pass


class _TlsSocket(_Limited, ssl.SSLSocket):
    pass


class _Connects:
    """Connects within the limit, and keeps each response's socket; a base of both kinds of connection."""

    host: str
    port: int
    timeout: Any
    sock: Any

    def _new_conn(self) -> socket.socket:
        until_s = time.monotonic() + float(self.timeout)
        try:
            addresses = _addresses(self._dns_host, self.port, float(self.timeout))  # type: ignore[attr-defined]
            return _first(addresses, until_s, self.socket_options or [])  # type: ignore[attr-defined]
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out.") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error  # type: ignore[arg-type]

    def getresponse(self) -> Any:
        # If the server closes after its answer, the connection drops its socket before the body is read.
        sock = self.sock
        response = super().getresponse()  # type: ignore[misc]
        response.limited_socket = sock
        return response


class _Connection(_Connects, HTTPConnection):
    pass


class _TlsConnection(_Connects, HTTPSConnection):
    def connect(self) -> None:
        # A context for each connection: the client certificate for one host is not shown to the next.
        self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        self.ssl_context.sslsocket_class = _TlsSocket
        super().connect()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection

    def _validate_conn(self, conn: Any) -> None:
        # Leaves out the library's warning at each request: the user turned the check off on purpose.
        if conn.is_closed:
            conn.connect()


class Adapter(HTTPAdapter):
    """Sends each request once over limited connections; ``http.send`` decides about repeats."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """See HTTPAdapter."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _Pool, "https": _TlsPool}


class Until(Timeout):
    """The library's limit as a moment: the end for proxy, connection and head of the answer together.

    Args:
        until_s: end of the time limit, by ``time.monotonic``.
    """

    def __init__(self, until_s: float) -> None:
        super().__init__()
        self._until_s = until_s

    def clone(self) -> Until:
        """See Timeout."""
        return Until(self._until_s)

    @property
    def connect_timeout(self) -> float:
        """Time left, seconds."""
        return max(self._until_s - time.monotonic(), SHORTEST_S)

    @property
    def read_timeout(self) -> float:
        """Time left, seconds."""
        return self.connect_timeout


def limit(response: requests.Response, seconds: float) -> None:
    """Limit the time for the rest of a streamed body, counted from now, seconds."""
    # The socket is closed once the whole body has arrived.
    with contextlib.suppress(OSError, AttributeError):
        response.raw.limited_socket.settimeout(max(seconds, SHORTEST_S))  # type: ignore[union-attr]


def broken() -> tuple[type[Exception], ...]:
    """Return the exceptions that the libraries raise when a request or a streamed body does not arrive."""
    # For some malformed chunk sizes the standard library raises ValueError or OverflowError.
    return requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, OverflowError


def _addresses(host: str, port: int, seconds: float) -> list[Any]:
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        try:
            return deadline.within(seconds, f"looking up the name {host}", lambda: _looked_up(host, port))
        except Unavailable as late:
            raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer in time") from late
    return _looked_up(host.strip("[]"), port)


def _looked_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, urllib3.util.connection.allowed_gai_family(), socket.SOCK_STREAM)


def _first(addresses: list[Any], until_s: float, options: Any) -> socket.socket:
    """Connect to the first address that answers; each but the last gets half of the remaining time."""
    for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
        last = number == len(addresses)
        left_s = (until_s - time.monotonic()) * (1 if last else 0.5)
        sock = _Socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.settimeout(max(left_s, SHORTEST_S))
            sock.connect(address)
            sock.settimeout(max(until_s - time.monotonic(), SHORTEST_S))
        except OSError:
            sock.close()
            if last:
                raise
            continue
        except BaseException:
            sock.close()
            raise
        return sock
    raise OSError("the name has no address")
