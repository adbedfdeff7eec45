"""Chooses the Triton for a request: the least busy one first, and another one if a repeat is safe.

This is a small client of our own on httptools (the parser that uvicorn uses). A request costs a fifth of
one through aiohttp: the gateway adds 0.2 ms instead of 0.45 ms (docs/adr/0006).

A request is repeated, on another server if there is one,

- if the connection could not be made: nothing was sent;
- if the answer says that the model is not loaded (yet): nothing was computed. It happens while a Triton
  starts or stops;
- once, if the connection ended before an answer began, the whole request is still held, and ``repeats``
  allows it.

A request is never repeated after a time-out. A request to a candidate is repeated on the live version only,
and a candidate is asked on the one Triton that its record names.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence

from ..http.errors import Absent, BackendFailed, Interrupted, Unavailable
from ..http.repeats import Repeats
from .connection import Broken
from .placement import ANY
from .pool import Pool, Reply

FRESH_S = 30.0
"""Longest idle time of a connection to a candidate, seconds.

A firewall may have dropped an older connection, which would look as if its Triton had ended.
"""

UNPARSED = re.compile(rb'\{"error":"(?:Unable to|failed to|Failed to|attempt to) ?(?:parse|access|set|get)')
"""The beginning of Triton's answers with status 500 to a request that it can't read."""


class Tritons:
    """Every Triton on the repository.

    Args:
        addresses: ``host:port`` of each.
        connect_timeout_s: longest wait for a connection, seconds.
        repeats: decides whether a request is repeated on a second server.
    """

    def __init__(self, addresses: Sequence[str], connect_timeout_s: float, repeats: Repeats) -> None:
        self._pools = [Pool(address, connect_timeout_s) for address in addresses]
        self._by_address = {pool.address: pool for pool in self._pools}
        self._repeats = repeats
        self._turn = 0

    @property
    def busy(self) -> int:
        """Number of requests that the Tritons have now."""
        return sum(pool.busy for pool in self._pools)

    async def ask(
        self,
        method: str,
        path: str,
        headers: bytes = b"",
        body: bytes = b"",
        more: AsyncIterator[bytes] | None = None,
        *,
        candidate: bool = False,
        interrupted: bool = False,
    ) -> Reply:
        """Send a request, repeat it as the module says, and return the answer, which the caller closes.

        Args:
            method: HTTP method.
            path: path, from ``v2.routes``.
            headers: further header lines, with ``Content-Length``.
            body: the body, or its beginning.
            more: the rest of a body that is not held; such a request is not repeated.
            candidate: the version is not live: its failures must neither mark the server as away nor be
                retried on another server.
            interrupted: this repeats a request of a candidate whose Triton ended.

        Raises:
            Interrupted: the candidate's Triton ended.
            Unavailable: no server took the request.
            BackendFailed: the connection ended within the answer.
        """
        line = f"{method} {path} HTTP/1.1\r\n".encode()
        repeated = self._repeats.begin() if interrupted else None
        absent: Reply | None = None
        try:
            for pool in self._order():
                try:
                    reply = await pool.ask(line + pool.host_header + headers + b"\r\n" + body, more)
                except Broken:
                    pool.is_away()
                    if candidate:
                        raise Interrupted("A Triton ended while it had the request of a candidate.") from None
                    repeated = self._repeat(repeated, whole=more is None)
                    continue
                except (OSError, TimeoutError):
                    pool.is_away()
                    continue
                if not _says_it_is_not_there(path, reply):
                    return reply
                if not candidate:
                    pool.asked_last()
                if absent is not None:
                    absent.close()
                absent = reply
                if more is not None:
                    break
            if absent is not None:
                kept, absent = absent, None
                return kept
        finally:
            if absent is not None:
                absent.close()
        raise Unavailable("No Triton can be reached. Try again.")

    async def ask_candidate(self, path: str, headers: bytes, body: bytes, at: str) -> Reply:
        """Ask a candidate, on its one Triton.

        Args:
            path: path of its engine.
            headers: as for ``ask``.
            body: the whole body.
            at: the address of its Triton, or ``ANY``.

        Raises:
            Interrupted: the connection ended while its Triton had the request.
            Absent: its Triton can't be reached, or does not have the candidate; or no Triton has (``ANY``).
            Unavailable: with ``ANY``, no Triton took the request.
        """
        if at == ANY:
            reply = await self.ask("POST", path, headers, body, candidate=True)
            return _there(reply, "No Triton has the candidate.")
        pool = self._by_address[at]
        line = f"POST {path} HTTP/1.1\r\n".encode()
        try:
            reply = await pool.ask(line + pool.host_header + headers + b"\r\n" + body, idle_s=FRESH_S)
        except (Broken, BackendFailed):
            pool.is_away()
            raise Interrupted("A Triton ended while it had the request of a candidate.") from None
        except (OSError, TimeoutError):
            pool.is_away()
            raise Absent("The Triton of a candidate can't be reached.") from None
        return _there(reply, "The Triton of a candidate does not have it.")

    def _repeat(self, repeated: float | None, *, whole: bool) -> float:
        """Return the time of the repeat of a request whose Triton ended; raises Unavailable to refuse it."""
        if repeated is not None:
            self._repeats.ended_again(repeated)
            raise Unavailable(
                "A Triton ended while it had this request, and so did the one that got it then."
            )
        if not whole:
            raise Unavailable("A Triton ended while it had this request. Try again.")
        return self._repeats.begin()

    def close(self) -> None:
        """Close the idle connections."""
        for pool in self._pools:
            pool.close()

    def _order(self) -> list[Pool]:
        """Return the servers in the order in which to ask them; a single server is asked twice."""
        pools = self._pools
        if len(pools) == 1:
            return pools * 2
        self._turn += 1
        now, turn = time.monotonic(), self._turn
        rotated = pools[turn % len(pools) :] + pools[: turn % len(pools)]
        return sorted(rotated, key=lambda pool: (pool.away_until > now, pool.busy))


def is_absent(reply: Reply) -> bool:
    """Whether a Triton answered that it does not have the model."""
    return reply.status != 200 and reply.complete and b"unknown model" in reply.head


def is_failure(reply: Reply) -> bool:
    """Whether the model failed; a missing model or an unreadable request is no failure of a model."""
    return (
        reply.status >= 500
        and reply.status != 503
        and not is_absent(reply)
        and not UNPARSED.match(reply.head)
    )


def _there(reply: Reply, otherwise: str) -> Reply:
    if is_absent(reply):
        reply.close()
        raise Absent(otherwise)
    return reply


def _says_it_is_not_there(path: str, reply: Reply) -> bool:
    """Whether a Triton that starts, stops or has lost the model refused the request before computing."""
    if reply.status == 200 or not reply.complete:
        return False
    return (
        reply.status == 503
        or path.endswith("/ready")
        or (reply.status in (400, 404) and b"unknown model" in reply.head)
    )
