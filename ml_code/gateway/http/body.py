"""A request's body: read in pieces up to its limit, and held within the memory that admission grants."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Receive

from .admission import Admission
from .errors import Encoded, Malformed, TooLarge

Headers = Iterable[tuple[bytes, bytes]]


class Disconnected(Exception):
    """The client went away, or does not read its answer: there is no client left to answer."""


class Body:
    """The body of one request.

    Args:
        receive: ASGI's.
        headers: the request's, names in lower case.
        limit: largest size, bytes.
        admission: grants memory.

    Attributes:
        complete: whether the whole body has arrived.
        announced: Content-Length, bytes; None without one.
        json_length: size of the JSON part that binary data follows, bytes; None without such a part.

    Raises:
        TooLarge: Content-Length is larger than the limit.
        Encoded: the body is compressed.
        Malformed: Inference-Header-Content-Length is not a length.
    """

    def __init__(self, receive: Receive, headers: Headers, limit: int, admission: Admission) -> None:
        self._receive = receive
        self._admission = admission
        self._limit = limit
        self._held = 0
        self.complete = False
        self.announced: int | None = None
        self.json_length: int | None = None
        for name, value in headers:
            if name == b"content-length":
                # uvicorn's parser lets only one decimal number through.
                self.announced = int(value)
            elif name == b"content-encoding" and value.strip().lower() != b"identity":
                raise Encoded("A compressed body is not taken; send it as it is.")
            elif name == b"inference-header-content-length":
                if not (value.isdigit() and len(value) < 19):
                    raise Malformed("Inference-Header-Content-Length is not a length.")
                self.json_length = int(value)
        if self.announced is not None and self.announced > limit:
            raise self._too_large()

    async def chunk(self) -> bytes:
        """Return the next piece; empty at the end.

        Raises:
            Disconnected: the client went away.
        """
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            self.complete = not message.get("more_body", False)
            data: bytes = message.get("body", b"")
            if data:
                return data
        return b""

    async def read(self, size: int | None = None) -> bytes:
        """Return the whole body, or its beginning: the pieces that hold its first ``size`` bytes.

        Raises:
            TooLarge: the body has more bytes than the limit; the rest is not read.
            Busy: there is no memory for the body.
            Disconnected: the client went away.
        """
        first = await self.chunk()
        if self.complete or (size is not None and len(first) >= size):
            self._check(len(first))
            return first
        pieces, total = [first], len(first)
        self._hold(total)
        while not self.complete and (size is None or total < size):
            piece = await self.chunk()
            total += len(piece)
            self._check(total)
            self._hold(len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    def release(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._admission.drop(self._held)
        self._held = 0

    def _hold(self, size: int) -> None:
        self._admission.hold(size)
        self._held += size

    def _check(self, total: int) -> None:
        if total > self._limit:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limit} bytes.")
