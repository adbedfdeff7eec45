"""What a transfer of many ranges does beside reading them: it hashes and flushes, and reads no further than both keep up."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients import transfer
from ml_code.triton_deploy.clients.artifacts import Source
from ml_code.triton_deploy.clients.transfer import AHEAD, Transfer
from ml_code.triton_deploy.errors import StorageFailed
from ml_code.triton_deploy.settings import Settings
from tests.support.fakes import fake_store
from tests.support.settings import changed

MIB = 1 << 20
STREAMS = 2
CONTENT = os.urandom(12 * MIB)


@pytest.fixture
def source() -> Iterator[Source]:
    with fake_store() as store:
        store.objects["fake://bucket/model.onnx"] = CONTENT
        yield store.source("fake://bucket", "model.onnx")


@pytest.fixture
def fetching(tmp_path: Path) -> Transfer:
    settings = Settings.from_env({"TRITON_DEPLOY_REPOSITORY": str(tmp_path)})
    return Transfer(changed(settings, transfer__range_bytes=MIB, transfer__streams=STREAMS))


def test_what_was_written_goes_to_disk_while_more_is_read(
    source: Source, fetching: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, flushed_at, sync, flushed = 0, list[int](), os.fdatasync, threading.Event()

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done > 8 * MIB:
            flushed.wait(timeout=10)

    def fdatasync(fd: int) -> None:
        flushed_at.append(done)
        flushed.set()
        sync(fd)

    monkeypatch.setattr(transfer, "FLUSH_BYTES", 2 * MIB)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    digest = fetching.fetch(source, tmp_path / "model.onnx", len(CONTENT), progress)
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT
    assert 2 * MIB <= flushed_at[0] < len(CONTENT)


@pytest.mark.parametrize("flush_mib", [2, 12], ids=["while it is read", "at its end"])
def test_a_disk_that_fails_meanwhile_fails_the_transfer(
    source: Source, fetching: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_mib: int
) -> None:
    def fdatasync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(transfer, "FLUSH_BYTES", flush_mib * MIB)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(StorageFailed, match=r"model\.onnx"):
        fetching.fetch(source, tmp_path / "model.onnx", len(CONTENT), lambda count: None)


def test_reads_do_not_run_ahead_of_the_hash(
    source: Source, fetching: Transfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_span, read_span = transfer._hash_span, transfer._Copy._read_span
    # The first one is hashed: those that may be read and wait, and the one that took its place.
    allowed = STREAMS + AHEAD + 1
    begun, all_that_may = threading.Semaphore(0), threading.Event()
    starts = list[int]()

    def counted(*args: object) -> None:
        starts.append(1)
        begun.release()
        read_span(*args)  # type: ignore[arg-type]

    def held(sha: object, fd: int, start: int, end: int) -> None:
        if start == 0:
            assert all(begun.acquire(timeout=10) for _ in range(allowed))
            assert not begun.acquire(timeout=0.3)
            all_that_may.set()
        hash_span(sha, fd, start, end)  # type: ignore[arg-type]

    monkeypatch.setattr(transfer._Copy, "_read_span", counted)
    monkeypatch.setattr(transfer, "_hash_span", held)
    fetching.fetch(source, tmp_path / "model.onnx", len(CONTENT), lambda count: None)
    assert all_that_may.is_set()
    assert len(starts) == len(CONTENT) // MIB
