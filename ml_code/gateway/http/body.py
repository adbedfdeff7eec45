"""A request's body: read in pieces, cut off at its limit, and held only within the memory that admission grants."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from starlette.types import Receive

from .admission import Admission
from .errors import Encoded, Malformed, TooLarge

Headers = Iterable[tuple[bytes, bytes]]

_STEPS = np.zeros(256, np.int8)
"""How a byte outside of strings changes the depth."""
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


class Disconnected(Exception):
    """The client went away, or does not read its answer; nobody is left to answer."""


class Body:
    """The body of one request.

    Args:
        receive: ASGI's.
        headers: of the request.
        limit: largest size that is taken, bytes.
        admission: grants memory.

    Raises:
        TooLarge, Encoded, Malformed: the headers alone say that it can't be taken.
    """

    def __init__(self, receive: Receive, headers: Headers, limit: int, admission: Admission) -> None:
        self._receive = receive
        self._admission = admission
        self._limit = limit
        self._held = 0
        self.complete = False
        self.announced: int | None = None
        self.content_type = b""
        self.json_length: int | None = None
        for name, value in headers:
            if name == b"content-length":
                # uvicorn's parser has refused anything but one decimal number.
                self.announced = int(value)
            elif name == b"content-type":
                self.content_type = value
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
        """Return the body, or, of a longer one, all that arrived until at least ``size`` bytes were there.

        Raises:
            TooLarge: it has more bytes than the limit; what follows is not read.
            Busy: there is no memory for it.
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
        """Give the memory back; called once the request is answered."""
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


def check_depth(text: bytes, limit: int) -> None:
    """Refuse JSON that is nested deeper than ``limit``, before anything parses it.

    Parsers recurse: on 100,000 levels Triton 2.51 ends with a crash. Here each byte is looked at a few times, whatever the
    text is; what is not JSON is left to the parser.

    Raises:
        Malformed: it is too deep.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return
    if b"\\" in text:
        # Of the same length, so that a quote that is left begins or ends a string.
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    data = np.frombuffer(text, np.uint8)
    steps = _STEPS[data]
    steps[np.logical_xor.accumulate(data == ord('"'))] = 0
    if int(np.cumsum(steps, dtype=np.int32).max()) > limit:
        raise Malformed(f"The JSON is nested deeper than {limit} levels.")
