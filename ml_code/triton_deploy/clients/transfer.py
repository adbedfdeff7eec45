"""One file from HTTP to disk: written once, hashed on the way, in memory that does not grow with its size.

A source that answers ranges is read in parallel into its final place; the hash follows behind the reads, from the page
cache. A stream whose connection breaks goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..settings import Settings
from ..storage import storage_errors
from . import http
from .http.tls import Trust
from .mlflow_api import credentials_hint
from .object_answers import AGAIN, Interruption, OneStreamOnly
from .remote_object import BLOCK_BYTES, RemoteObject
from .sources import Source
from .transfer_pace import Pace, Repeats

if TYPE_CHECKING:
    import requests

RESTARTS = 3
"""How often a file that can't be read in ranges is begun again after a part of it had come."""
AHEAD = 2
"""How many ranges may wait for the hash. Where processors are few, reads that run on take them from it, and it goes on alone in the end."""

FLUSH_BYTES = 64 << 20
"""What is at least handed to the disk at a time, while more is read."""

Progress = Callable[[int], None]
"""Told the number of bytes that arrived since it was last called; 0 says that it goes on."""

log = logging.getLogger(__name__)


class Transfer:
    """Fetches files with the deadlines and parallelism of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[Trust, requests.Session] = {}

    def fetch(self, source: Source, target: Path, size_bytes: int, progress: Progress) -> str:
        """Write a remote file to ``target``.

        Args:
            source: how to read it.
            target: file to create, in a directory that exists.
            size_bytes: what the listing said; anything else is an error, and no more is ever written.
            progress: told about every block, by one thread at a time.

        Returns:
            The sha256 of its bytes, in hex.

        Raises:
            Unavailable: it can't be read to its end, or not fast enough; its size is not the listed one; or it was replaced meanwhile.
            AccessDenied, NotFound: the server refuses.
            Misconfigured: the server answers something other than the file, or a request of another region.
            StorageFailed: it can't be written.

        A server that neither refuses nor hands the file out is given up after ``transfer_timeout_s`` without a byte, and when fewer than
        ``transfer_min_bytes_per_s`` come on the average of such a time.
        """
        pace = Pace(self._settings.transfer.timeout_s, self._settings.transfer.min_bytes_per_s)
        remote = RemoteObject(source, size_bytes, self._ask, pace, self._credentials)
        # Closing is a part of it: NFS tells of a full disk there.
        with storage_errors(f"writing {target}"):
            fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                copy = _Copy(remote, fd, size_bytes, pace, progress)
                if source.ranged and size_bytes > 0:
                    try:
                        return copy.by_ranges(
                            self._settings.transfer.range_bytes, self._settings.transfer.streams
                        )
                    except OneStreamOnly as reason:
                        log.info("%s is read in one stream: %s", target.name, reason)
                return copy.as_stream()
            finally:
                os.close(fd)

    def _ask(self, source: Source, headers: Mapping[str, str], timeout_s: float) -> requests.Response:
        return http.send(
            self._session_for(source.trust),
            "GET",
            source.url,
            headers={**source.headers, **headers},
            auth=source.auth,
            timeout_s=timeout_s,
            server=source.server,
            hint=AGAIN,
            stream=True,
        )

    def _credentials(self, source: Source, status: int) -> str:
        if source.trust.kind == "mlflow":
            return credentials_hint(self._settings, status)
        return "Check the S3 keys (of the worker, or of MLflow) and that the clocks agree."

    def _session_for(self, trust: Trust) -> requests.Session:
        # A file may come from S3 first and, once its address had to be renewed, from MLflow.
        if trust not in self._sessions:
            self._sessions[trust] = http.new_session(pool_size=self._settings.transfer.streams, trust=trust)
        return self._sessions[trust]


class _Copy:
    """One file on its way to a file descriptor."""

    def __init__(self, remote: RemoteObject, fd: int, size: int, pace: Pace, progress: Progress) -> None:
        self._remote, self._fd, self._size, self._pace = remote, fd, size, pace
        self._progress = progress
        self._untold = size
        self._telling = threading.Lock()
        self._failure: BaseException | None = None

    def by_ranges(self, range_bytes: int, streams: int) -> str:
        """Read ranges side by side; return the sha256. Raises what RemoteObject.part does, but Interruption."""
        step = max(range_bytes, BLOCK_BYTES)
        spans = [(start, min(start + step, self._size)) for start in range(0, self._size, step)]
        sha = hashlib.sha256()
        if len(spans) == 1:
            self._read_span(0, self._size)
            _hash_span(sha, self._fd, 0, self._size)
            return sha.hexdigest()
        streams = min(streams or 1, len(spans))
        pool = ThreadPoolExecutor(max_workers=streams)
        left = iter(spans)
        reads: deque[tuple[int, int, Future[None]]] = deque()

        def read_next() -> None:
            span = next(left, None)
            if span is not None:
                reads.append((*span, pool.submit(self._read_beside_others, *span)))

        try:
            with _Flusher(self._fd) as flusher:
                for _ in range(streams + AHEAD):
                    read_next()
                while reads:
                    start, end, future = reads.popleft()
                    future.result()
                    read_next()
                    _hash_span(sha, self._fd, start, end)
                    flusher.written(end)
        except BaseException as error:
            self._end_all(error)
            # Which of them failed first; the others only ended.
            raise self._failure or error from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return sha.hexdigest()

    def _read_beside_others(self, start: int, end: int) -> None:
        try:
            self._read_span(start, end)
        except BaseException as error:
            self._end_all(error)
            raise

    def _end_all(self, error: BaseException) -> None:
        with self._telling:
            self._failure = self._failure or error
        # The one stream that follows goes on at the same pace.
        if not isinstance(self._failure, OneStreamOnly):
            self._pace.stop()

    def _read_span(self, start: int, end: int) -> None:
        repeats = Repeats(self._pace)
        while start < end and self._failure is None:
            began_at = start
            try:
                with self._remote.part(start, end) as blocks:
                    for block in blocks:
                        _write(self._fd, memoryview(block), start)
                        start += len(block)
                        self._tell(len(block))
            except Interruption as interruption:
                self._await_next(repeats, interruption, progressed=start > began_at)

    def as_stream(self) -> str:
        """Read the whole file from one answer; return the sha256. Raises what RemoteObject.whole does, but Interruption."""
        repeats, restarts = Repeats(self._pace), 0
        while True:
            sha, offset = hashlib.sha256(), 0
            try:
                with self._remote.whole() as blocks:
                    for block in blocks:
                        _write(self._fd, memoryview(block), offset)
                        sha.update(block)
                        offset += len(block)
                        self._tell(len(block))
                return sha.hexdigest()
            except Interruption as interruption:
                restarts += bool(offset)
                if restarts > RESTARTS:
                    raise interruption.problem from interruption
                self._await_next(repeats, interruption, progressed=bool(offset))

    def _await_next(self, repeats: Repeats, interruption: Interruption, *, progressed: bool) -> None:
        self._tell(0)
        if not repeats.go_on(progressed=progressed, asked_s=interruption.asked_s):
            raise interruption.problem from interruption

    def _tell(self, count: int) -> None:
        # Bytes that come a second time are none.
        with self._telling:
            count = min(count, self._untold)
            self._untold -= count
            self._progress(count)


class _Flusher:
    """Has what is written go to disk while more is read: whoever syncs the file in the end waits for the rest only.

    Args:
        fd: the file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._flushed_to = 0
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._flush: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self._raise_failure()

    def written(self, end: int) -> None:
        """Begin to flush if enough has been written since the last time, up to offset ``end``; raises OSError of that time."""
        if end - self._flushed_to < FLUSH_BYTES or (self._flush and not self._flush.done()):
            return
        self._raise_failure()
        self._flushed_to = end
        self._flush = self._pool.submit(os.fdatasync, self._fd)

    def _raise_failure(self) -> None:
        # The system tells of a failed write once: the sync in the end would not hear of it.
        if self._flush is not None:
            self._flush.result()


def _write(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data``: a call may write a part of it and report no error, as on a disk that is nearly full."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _hash_span(sha: hashlib._Hash, fd: int, start: int, end: int) -> None:
    while start < end:
        block = os.pread(fd, min(BLOCK_BYTES, end - start), start)
        if not block:
            raise OSError(5, "the file is shorter than what was written to it")
        sha.update(block)
        start += len(block)
