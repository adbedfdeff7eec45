"""One file from HTTP to disk: written once, hashed on the way, in memory that does not grow with its size.

A source that answers ranges is read in parallel into its final place; the hash follows behind the reads, from the page
cache. Every range may be repeated on its own when its connection breaks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from . import http
from .artifacts import Source
from .errors import AccessDenied, DeployError, NotFound, Unavailable
from .repository.durable import storage_errors
from .settings import Settings

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 1 << 20
ATTEMPTS = 3
AHEAD = 2
"""How many ranges may wait for the hash. Where processors are few, reads that run on take them from it, and it goes on alone in the end."""

FLUSH_BYTES = 64 << 20
"""What is at least handed to the disk at a time, while more is read."""

Progress = Callable[[int], None]
"""Told the number of bytes that arrived since it was last called."""


class Transfer:
    """Fetches files with the deadlines and parallelism of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = http.new_session(pool_size=settings.transfer_streams)

    def fetch(self, source: Source, target: Path, size_bytes: int, progress: Progress) -> str:
        """Write a remote file to ``target``.

        Args:
            source: how to read it.
            target: file to create, in a directory that exists.
            size_bytes: what the listing said; anything else is an error.
            progress: told about every block.

        Returns:
            The sha256 of its bytes, in hex.

        Raises:
            Unavailable: it can't be read to its end, or its size is not the listed one.
            AccessDenied, NotFound: the server refuses.
            StorageFailed: it can't be written.
        """
        # Closing is a part of it: NFS tells of a full disk there.
        with storage_errors(f"writing {target}"):
            fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                if source.ranged and size_bytes > 0:
                    return self._fetch_ranges(source, fd, size_bytes, progress)
                return self._fetch_stream(source, fd, size_bytes, progress)
            finally:
                os.close(fd)

    def _fetch_ranges(self, source: Source, fd: int, size: int, progress: Progress) -> str:
        step = max(self._settings.transfer_range_bytes, BLOCK_BYTES)
        spans = [(start, min(start + step, size)) for start in range(0, size, step)]
        sha = hashlib.sha256()
        if len(spans) == 1:
            self._fetch_span(source, fd, spans[0], size, progress)
            _hash_span(sha, fd, 0, size)
            return sha.hexdigest()
        streams = min(self._settings.transfer_streams or 1, len(spans))
        pool = ThreadPoolExecutor(max_workers=streams)
        left = iter(spans)
        reads: deque[tuple[int, int, Future[None]]] = deque()

        def read_next() -> None:
            for start, end in islice(left, 1):
                future = pool.submit(self._fetch_span, source, fd, (start, end), size, progress)
                reads.append((start, end, future))

        try:
            with _Flusher(fd) as flusher:
                for _ in range(streams + AHEAD):
                    read_next()
                while reads:
                    start, end, future = reads.popleft()
                    future.result()
                    read_next()
                    _hash_span(sha, fd, start, end)
                    flusher.written(end)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return sha.hexdigest()

    def _fetch_span(
        self, source: Source, fd: int, span: tuple[int, int], size: int, progress: Progress
    ) -> None:
        start, end = span
        problem: DeployError | None = None
        for _ in range(ATTEMPTS):
            try:
                response = self._open(source, {"Range": f"bytes={start}-{end - 1}"})
                with response:
                    # rclone answers 200 with a Content-Range; a server that ignores ranges answers 200 without.
                    answered = re.fullmatch(
                        r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "")
                    )
                    if answered is None and not (start == 0 and end == size):
                        raise Unavailable(
                            f"{source.server} does not answer ranged reads.",
                            hint="Set TRITON_DEPLOY_TRANSFER_RANGE_BYTES above the model's size.",
                        )
                    if answered and [int(part) for part in answered.groups()] != [start, end - 1, size]:
                        raise _changed(source, f"it has {answered[3]} bytes, {size} were listed")
                    if answered is None and response.headers.get("Content-Length", str(size)) != str(size):
                        raise _changed(
                            source, f"it has {response.headers['Content-Length']} bytes, {size} were listed"
                        )
                    start += _copy(response, fd, start, end, progress)
            except http.SilentServer:
                raise
            except Unavailable as error:
                problem = error
                continue
            except http.broken_reads() as error:
                problem = http.unreachable(error, source.server, _AGAIN)
                if isinstance(problem, http.SilentServer):
                    raise problem from error
                continue
            if start == end:
                return
            problem = _changed(source, f"it ended {end - start} bytes early")
        assert problem is not None
        raise problem

    def _fetch_stream(self, source: Source, fd: int, size: int, progress: Progress) -> str:
        sha = hashlib.sha256()
        try:
            with self._open(source, {}) as response:
                # One byte more than listed, so that a longer file is noticed.
                arrived = _copy(response, fd, 0, size + 1, progress, sha)
        except http.broken_reads() as error:
            raise http.unreachable(error, source.server, _AGAIN) from error
        if arrived != size:
            raise _changed(source, f"{arrived} bytes arrived, {size} were listed")
        return sha.hexdigest()

    def _open(self, source: Source, headers: dict[str, str]) -> requests.Response:
        # Identity: what is hashed must be the bytes of the file.
        response = http.get(
            self._session,
            source.url,
            headers={**source.headers, **headers, "Accept-Encoding": "identity"},
            auth=source.auth,
            timeout_s=self._settings.transfer_timeout_s,
            server=source.server,
            hint=_AGAIN,
            stream=True,
        )
        if response.ok:
            return response
        with response:
            raise _refusal(source, response.status_code, response.raw.read(600).decode(errors="replace"))


_AGAIN = "Check that the server runs and can be reached from this worker, then deploy again."


def _refusal(source: Source, status: int, text: str) -> DeployError:
    # S3 explains itself in XML, MLflow in JSON.
    said = re.search(r"<Code>(\w+)</Code>", text) or re.search(r'"message":\s*"(.*?)"', text)
    reason = f"({status}) {said[1] if said else ' '.join(text.split())}"
    if status == 416:
        return _changed(source, "it is shorter")
    if status in (401, 403):
        return AccessDenied(
            f"{source.server} denies the artifact: {reason}.",
            hint="Check the S3 keys (of the worker, or of MLflow) and that the clocks agree.",
        )
    # MLflow's proxy reports a missing object as a failure of its own.
    if status == 404 or "NoSuchKey" in text:
        return NotFound(
            f"{source.server} no longer has the artifact: {reason}.",
            hint="Register the model version again.",
        )
    return Unavailable(f"{source.server} failed to hand out the artifact: {reason}.", hint=_AGAIN)


def _changed(source: Source, what: str) -> Unavailable:
    return Unavailable(
        f"What {source.server} sends is not what was listed: {what}.",
        hint="It may still be uploading, or the upload was cut off; deploy again, or log it again.",
    )


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


def _copy(
    response: requests.Response,
    fd: int,
    start: int,
    end: int,
    progress: Progress,
    sha: hashlib._Hash | None = None,
) -> int:
    """Copy a response's body to ``fd`` from offset ``start``, at most to ``end``; return how many bytes."""
    block = memoryview(bytearray(min(BLOCK_BYTES, end - start)))
    offset = start
    while offset < end:
        count = response.raw.readinto(block[: end - offset])
        if not count:
            break
        _write(fd, block[:count], offset)
        if sha is not None:
            sha.update(block[:count])
        offset += count
        progress(count)
    return offset - start


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
