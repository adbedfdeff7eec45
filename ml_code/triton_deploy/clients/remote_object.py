"""One file on a server as one transfer sees it: every byte is of the same content, whatever URL it came from and however often it was asked for."""

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
    """A way to read the file, as long as the server lets it be used."""

    source: Source
    is_renewed: bool = False
    worked: bool = False


class RemoteObject:
    """Reads ranges of a file, or the whole of it.

    Args:
        source: how to read it.
        size_bytes: what was listed.
        ask: sends a GET for a source with these headers, within so many seconds until the head of the answer; see ``http.send``.
        pace: how long the server is waited for.
        credentials: what to do about credentials that a source's server refuses with this status.
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
        """What to call the server in a message."""
        return self._grant.source.server

    @contextmanager
    def part(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        """Yield the blocks of a range; a server may end it earlier.

        Args:
            start: its first byte.
            end: the byte after its last.

        Raises:
            Interruption: it may work when it is asked for again.
            OneStreamOnly: ranges can't be read, or not be known to be of one content.
            AccessDenied, Misconfigured, NotFound, Unavailable: another attempt would change nothing.
        """
        # Others wait for the first answer: its validator goes with all requests after it.
        with nullcontext() if self._pin else self._pinning:
            response, end = self._pinned(start, end)
        with response:
            yield self._blocks(response, end - start)

    @contextmanager
    def whole(self) -> Iterator[Iterator[bytes]]:
        """Yield the blocks of the whole file, from one answer; raises what ``part`` does, but OneStreamOnly."""
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
        """Return an answer with the file in it; a presigned URL that expired is asked for again."""
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
                # Identity: what is hashed must be the bytes of the file.
                return self._ask(source, {**headers, "Accept-Encoding": "identity"}, left_s)
            except Unavailable as error:
                raise self._interrupted(error) from error

    def _renewed(self, grant: _Grant, status: int, text: str) -> bool:
        """Ask for a new presigned URL; returns whether there is one."""
        renew = grant.source.renew
        if renew is None or not object_answers.is_to_be_renewed(
            status, text, grant.source.url, worked=grant.worked
        ):
            return False
        with self._renewing:
            if self._grant is not grant:
                # Another stream was faster.
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
        """Read how a refusal begins."""
        text = b""
        try:
            while len(text) < REFUSAL_BYTES and (block := self._read(response, REFUSAL_BYTES - len(text))):
                text += block
        except (Interruption, Unavailable):
            # Its status says enough.
            pass
        return text.decode(errors="replace")

    def _blocks(self, response: requests.Response, count: int) -> Iterator[bytes]:
        """Yield so many bytes of an answer."""
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
            # Here the server says itself where its answer ends: it is no connection that was cut.
            if response.headers.get("Transfer-Encoding", "").lower() == "chunked" and _ended(interruption):
                raise interruption.problem from interruption
            raise
        if self._read(response, 1):
            raise object_answers.changed(self.server, f"more than {self._size} bytes come")

    def _read(self, response: requests.Response, most: int) -> bytes:
        """Read what is there, or wait for it; empty at the end."""
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
        """Return how long the server may still keep silent; raises Unavailable when the transfer is over."""
        left_s = self._pace.left_s()
        if not left_s:
            # What another stream heard last says more than silence.
            raise self._problem or self._pace.given_up(self.server)
        return left_s

    def _interrupted(self, problem: Unavailable, asked_s: float = 0.0) -> Interruption:
        self._problem = problem
        return Interruption(problem, asked_s)


def _ended(interruption: Interruption) -> bool:
    return interruption.__cause__ is None
