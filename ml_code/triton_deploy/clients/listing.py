"""Limits of a listing over many answers: it may never end, although each answer looks right."""

from __future__ import annotations

import time

from ..errors import DeployError, Misconfigured, Unavailable
from ..rules.version_files import RemoteFile
from .http.answers import MOST_VALUES

MOST_ENTRIES = 100_000
MOST_PAGES = 1_000
MOST_FOLDERS = 1_000
DEEPEST = 20
TIMES = 3
"""Time limit of a whole listing, as a multiple of the limit of one answer."""


class Listing:
    """Counts the answers of one listing, and raises an error at a limit.

    Args:
        what: the listed place, as the text after "The listing of".
        server: name of the server in messages, with its address.
        timeout_s: longest wait for one answer, seconds.
    """

    def __init__(self, what: str, server: str, timeout_s: float) -> None:
        self._what, self._server = what, server
        self._timeout_s = timeout_s
        self._until_s = time.monotonic() + TIMES * timeout_s
        self._left = {"entries": MOST_ENTRIES, "pages": MOST_PAGES, "folders": MOST_FOLDERS}
        self._values = MOST_VALUES
        self._tokens: set[str] = set()
        self._paths: set[str] = set()

    def next_timeout_s(self) -> float:
        """Return the time limit of the next answer, seconds; raises Unavailable when no time is left."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise Unavailable(
                f"{self._server} did not complete the listing of {self._what} within {TIMES * self._timeout_s:g} s.",
                hint="Look at the server's log, then deploy again.",
            )
        return min(self._timeout_s, left_s)

    def page(self, content: bytes, entries: int) -> None:
        """Count an answer and its entries; raises Misconfigured beyond a limit."""
        self._take("pages", 1)
        self._take("entries", entries)
        # Many pages of few entries can also exceed the memory.
        self._values -= sum(map(content.count, (b",", b"[", b"{", b"<")))
        if self._values < 0:
            raise self._endless(f"more than {MOST_VALUES} values")

    def token(self, token: str) -> str:
        """Return the token of the next page; raises Misconfigured for a repeated token."""
        if token in self._tokens:
            raise self._endless("the same page twice: it would never end")
        self._tokens.add(token)
        return token

    def folder(self, depth: int) -> None:
        """Count a folder, ``depth`` levels below the first one; raises Misconfigured beyond a limit."""
        self._take("folders", 1)
        if depth > DEEPEST:
            raise self._endless(f"folders more than {DEEPEST} levels deep")

    def file(self, path: str, size_bytes: int) -> RemoteFile:
        """Return a file of the listing; raises Misconfigured for a path that leads out or is repeated."""
        parts = path.split("/")
        if not path or path.startswith("/") or ".." in parts or not path.isprintable():
            raise self.wrong(f"the path {path[:100]!r}, which leads out of it or is none")
        if path in self._paths:
            raise self.wrong(f"the path {path[:100]!r} twice")
        self._paths.add(path)
        return RemoteFile(path, size_bytes)

    def wrong(self, what: str) -> DeployError:
        """Return the error for a wrong entry of the listing."""
        return Misconfigured(
            f"The listing of {self._what} by {self._server} has {what}.",
            hint="Look at what is stored there, or log the model again.",
        )

    def _take(self, kind: str, number: int) -> None:
        self._left[kind] -= number
        if self._left[kind] < 0:
            limits = {"entries": MOST_ENTRIES, "pages": MOST_PAGES, "folders": MOST_FOLDERS}
            raise self._endless(f"more than {limits[kind]:,} {kind}")

    def _endless(self, what: str) -> DeployError:
        return Misconfigured(
            f"The listing of {self._what} by {self._server} has {what}.",
            hint="Log the model into a folder of its own, and register that version. If its folder is small, the server is at fault.",
        )
