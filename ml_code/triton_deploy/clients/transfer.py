"""Copies a file from HTTP to disk: written once, hashed on the way, in memory of a fixed size.

A source with ranges is read in parallel into the final file; the hash follows behind the reads, from the
page cache. A range whose connection breaks goes on at the byte where the connection broke.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
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
"""Most restarts of a file that can't be read in ranges, after a part of the file had arrived."""
AHEAD = 2
"""Ranges that may be read ahead of the hash. With few processors, more reads would slow down the hash, and
the hash would finish alone after the last read."""

FLUSH_BYTES = 64 << 20
"""Least bytes that one flush hands to the disk, while more are read."""

Progress = Callable[[int], None]
"""Called with the number of bytes that arrived since the last call; 0 says that the transfer still runs."""

log = logging.getLogger(__name__)


class Transfer:
    """Fetches files with the deadlines and parallelism of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[Trust, requests.Session] = {}

    def fetch(self, source: Source, target: Path, size_bytes: int, progress: Progress) -> str:
        """Write a remote file to ``target``.

        Args:
            source: how to read the file.
            target: file to create, in a directory that exists.
            size_bytes: the listed size; another size is an error, and never more bytes are written.
            progress: called for every block, by one thread at a time.

        Returns:
            The sha256 of the file's bytes, in hex.

        Raises:
            Unavailable: the file can't be read to its end, or not fast enough; its size is not the listed
                size; or it was replaced meanwhile.
            AccessDenied, NotFound: the server refuses.
            Misconfigured: the server answers something other than the file, or the bucket is in another
                region.
            StorageFailed: the file can't be written.

        The transfer gives up a server that sends no byte for ``transfer_timeout_s``, or on average fewer than
        ``transfer_min_bytes_per_s`` over such a time.
        """
        pace = Pace(self._settings.transfer.timeout_s, self._settings.transfer.min_bytes_per_s)
        remote = RemoteObject(source, size_bytes, self._ask, pace, self._credentials)
        # The error context covers the close too: NFS reports a full disk there.
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
        # A file may come from S3 first and, after its presigned URL was renewed, from MLflow.
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
        """Read ranges in parallel; return the sha256. Raises as RemoteObject.part, but Interruption."""
        step = max(range_bytes, BLOCK_BYTES)
        spans = [(start, min(start + step, self._size)) for start in range(0, self._size, step)]
        sha = hashlib.sha256()
        if len(spans) == 1:
            self._read_span(0, self._size)
            _hash_span(sha, self._fd, 0, self._size)
        else:
            self._read_in_parallel(spans, min(streams or 1, len(spans)), sha)
        return sha.hexdigest()

    def _read_in_parallel(self, spans: Sequence[tuple[int, int]], streams: int, sha: hashlib._Hash) -> None:
        """Read spans in parallel, at most ``streams + AHEAD`` before the hash, and hash them in order."""
        pool = ThreadPoolExecutor(max_workers=streams)
        reads: deque[Future[None]] = deque()
        waiting = iter(spans)

        def begin(count: int) -> None:
            reads.extend(pool.submit(self._read_beside_others, *span) for span in islice(waiting, count))

        try:
            with _Flusher(self._fd) as flusher:
                begin(streams + AHEAD)
                for start, end in spans:
                    reads.popleft().result()
                    begin(1)
                    _hash_span(sha, self._fd, start, end)
                    flusher.written(end)
        except BaseException as error:
            self._end_all(error)
            # The first failure is the cause: the other streams only ended.
            raise self._failure or error from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read_beside_others(self, start: int, end: int) -> None:
        try:
            self._read_span(start, end)
        except BaseException as error:
            self._end_all(error)
            raise

    def _end_all(self, error: BaseException) -> None:
        with self._telling:
            self._failure = self._failure or error
        # After OneStreamOnly one stream follows, which needs the same pace.
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
        """Read the file in one answer; return the sha256. Raises as RemoteObject.whole, but Interruption."""
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
        # Bytes that arrive again after a restart are not reported twice.
        with self._telling:
            count = min(count, self._untold)
            self._untold -= count
            self._progress(count)


class _Flusher:
    """Flushes written bytes to disk while more are read, so that the final sync waits for the rest only.

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
        """Note that the file is written up to offset ``end``, and begin a flush if enough is new.

        Raises:
            OSError: the flush before it failed.
        """
        if end - self._flushed_to < FLUSH_BYTES or (self._flush and not self._flush.done()):
            return
        self._raise_failure()
        self._flushed_to = end
        self._flush = self._pool.submit(os.fdatasync, self._fd)

    def _raise_failure(self) -> None:
        # The system reports a failed write once: the final sync would not report it again.
        if self._flush is not None:
            self._flush.result()


def _write(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data``: on a disk that is nearly full, a call may write a part and report no error."""
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
