"""One file on a server, for one transfer: all bytes are of the same content, over all URLs and repeats."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..errors.texts import excerpt
from . import http, object_answers
from .http.answers import SHOWN_CHARACTERS, unsecret
from .object_answers import AGAIN, SOUND, Interruption, OneStreamOnly, Validator
from .sources import Source
from .transfer_pace import Pace

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 1 << 20
REFUSAL_BYTES = 4096


@dataclass(eq=False)
class _Grant:
    """A source of the file, valid until its URL expires."""

    source: Source
    is_renewed: bool = False
    worked: bool = False


class RemoteObject:
    """Reads ranges of a file, or the whole of it.

    Args:
        source: how to read the file.
        size_bytes: size of the listed file.
        ask: sends a GET for a source with headers, and a limit in seconds for the head of the answer; see
            ``http.send``.
        pace: limits the waiting for the server.
        credentials: returns the hint for credentials that a source's server refuses with a status.
    """

    def __init__(
        self,
        source: Source,
        size_bytes: int,
        ask: Callable[[Source, Mapping[str, str], float], requests.Response],
        pace: Pace,
        credentials: Callable[[Source, int], str],
    ) -> None:
        self._grant = _Grant(source)
        self._size = size_bytes
        self._ask = ask
        self._pace = pace
        self._credentials = credentials
        self._pin: Validator | None = None
        self._problem: Unavailable | None = None
        self._pinning = threading.Lock()
        self._renewing = threading.Lock()

    @property
    def server(self) -> str:
        """Name of the server in messages."""
        return self._grant.source.server

    @contextmanager
    def part(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        """Yield the blocks of a range; the server may send less than the range.

        Args:
            start: offset of its first byte.
            end: offset of the byte after its last.

        Raises:
            Interruption: a repeat may succeed.
            OneStreamOnly: the server does not answer ranges, or the ranges can't be tied to one content.
            AccessDenied, Misconfigured, NotFound, Unavailable: a repeat would change nothing.
        """
        # The other streams wait for the first answer: all later requests carry its validator.
        with nullcontext() if self._pin else self._pinning:
            response, end = self._pinned(start, end)
        with response:
            yield self._blocks(response, end - start)

    @contextmanager
    def whole(self) -> Iterator[Iterator[bytes]]:
        """Yield the blocks of the file, from one answer; raises as ``part`` does, except OneStreamOnly."""
        with self._granted({}) as response:
            object_answers.require_whole(response.status_code, response.headers, self._size, self.server)
            yield self._all(response)

    def _pinned(self, start: int, end: int) -> tuple[requests.Response, int]:
        condition = self._pin.condition if self._pin else {}
        response = self._granted({"Range": f"bytes={start}-{end - 1}", **condition})
        try:
            end = object_answers.end_of_range(
                response.status_code, response.headers, (start, end), self._size, self.server
            )
            if self._pin is not None:
                self._pin.require(response.headers, self.server)
            self._pin = self._pin or Validator.of(response.headers)
            if self._pin is None:
                raise OneStreamOnly(f"{self.server} names neither ETag nor Last-Modified of the file")
        except BaseException:
            response.close()
            raise
        return response, end

    def _granted(self, headers: Mapping[str, str]) -> requests.Response:
        """Return an answer that holds bytes of the file; an expired presigned URL is renewed."""
        while True:
            grant = self._grant
            if "Range" in headers and not grant.source.ranged:
                raise OneStreamOnly(f"{grant.source.server} hands out whole files only")
            response = self._sent(grant.source, headers)
            if response.status_code in SOUND:
                grant.worked = True
                return response
            with response:
                text = self._beginning(response)
                if not self._renewed(grant, response.status_code, text):
                    raise self._refusal(response, text, grant.source)

    def _sent(self, source: Source, headers: Mapping[str, str]) -> requests.Response:
        left_s = self._left_s()
        with self._pace.waiting():
            try:
                # No compression: the digest is of the file's plain bytes.
                return self._ask(source, {**headers, "Accept-Encoding": "identity"}, left_s)
            except Unavailable as error:
                raise self._interrupted(error) from error

    def _renewed(self, grant: _Grant, status: int, text: str) -> bool:
        """Renew an expired presigned URL; returns whether a new URL is there."""
        renew = grant.source.renew
        if renew is None or not object_answers.is_to_be_renewed(
            status, text, grant.source.url, worked=grant.worked
        ):
            return False
        with self._renewing:
            if self._grant is not grant:
                # Another stream has renewed the URL.
                return True
            if grant.is_renewed and not grant.worked:
                return False
            with self._pace.waiting():
                try:
                    self._grant = _Grant(renew(), is_renewed=True)
                except Unavailable as error:
                    raise self._interrupted(error) from error
        return True

    def _refusal(self, response: requests.Response, text: str, source: Source) -> Exception:
        status = response.status_code
        said = unsecret(object_answers.code_and_message(text), response)
        said = excerpt(" ".join(said.split()), SHOWN_CHARACTERS)
        hint = self._credentials(source, status)
        error = object_answers.refusal(status, text, said, source.server, hint)
        if error is not None:
            return error
        overloaded = object_answers.overloaded(status, said, source.server)
        return self._interrupted(overloaded, http.asked_pause(response))

    def _beginning(self, response: requests.Response) -> str:
        """Return the beginning of a refusal."""
        text = b""
        try:
            while len(text) < REFUSAL_BYTES and (block := self._read(response, REFUSAL_BYTES - len(text))):
                text += block
        except (Interruption, Unavailable):
            # The status of the refusal says enough.
            pass
        return text.decode(errors="replace")

    def _blocks(self, response: requests.Response, count: int) -> Iterator[bytes]:
        """Yield ``count`` bytes of an answer, in blocks."""
        while count > 0:
            block = self._read(response, min(count, BLOCK_BYTES))
            if not block:
                raise Interruption(object_answers.changed(self.server, f"it ended {count} bytes early"))
            self._pace.arrived(len(block))
            self._problem = None
            count -= len(block)
            yield block

    def _all(self, response: requests.Response) -> Iterator[bytes]:
        try:
            yield from self._blocks(response, self._size)
        except Interruption as interruption:
            # A chunked body that ends properly is shorter than the listed file: a repeat would not help.
            if response.headers.get("Transfer-Encoding", "").lower() == "chunked" and _ended(interruption):
                raise interruption.problem from interruption
            raise
        if self._read(response, 1):
            raise object_answers.changed(self.server, f"more than {self._size} bytes come")

    def _read(self, response: requests.Response, most: int) -> bytes:
        """Return the available bytes of the body, or wait for some; empty at the end."""
        self._left_s()
        with self._pace.waiting():
            http.limit(response, self._pace.silence_s)
            try:
                block: bytes = response.raw.read1(most, decode_content=False) or b""
            except http.broken_reads() as error:
                problem = http.unreachable(error, self.server, AGAIN, self._grant.source.trust.kind)
                if not isinstance(problem, Unavailable):
                    raise problem from error
                if isinstance(problem, http.SilentServer) and not self._pace.left_s():
                    raise self._pace.given_up(self.server) from error
                raise self._interrupted(problem) from error
        return block

    def _left_s(self) -> float:
        """Return how long the server may still be silent, seconds; raises Unavailable after the end."""
        left_s = self._pace.left_s()
        if not left_s:
            # The last problem of any stream says more than silence.
            raise self._problem or self._pace.given_up(self.server)
        return left_s

    def _interrupted(self, problem: Unavailable, asked_s: float = 0.0) -> Interruption:
        self._problem = problem
        return Interruption(problem, asked_s)


def _ended(interruption: Interruption) -> bool:
    return interruption.__cause__ is None
