"""The time of a transfer with sha256, beside bare ranged reads of the same object, the limit, and ``cp``.

The S3 servers are rclone and, on Debian 12, Ceph's RADOS Gateway. Both serve the object from memory over
the loopback, so the disk only takes the writes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import urllib3

from ml_code.triton_deploy.clients.artifacts import S3Store
from ml_code.triton_deploy.clients.transfer import Transfer
from ml_code.triton_deploy.settings import Settings
from tests.support.settings import changed

from .series import Series, by_way
from .site import servers

STREAMS, RANGE_BYTES, BLOCK_BYTES = 4, 16 << 20, 1 << 20
BUCKET, KEY = "bench", "model.onnx"
LIMIT, OURS, COPY = "bare ranged reads", "ours, with sha256", "cp"


def run(quick: bool) -> list[Series]:
    """Measure the seconds from the first request until the file system has the last byte.

    Args:
        quick: two rounds with 128 MiB, else five with 1 GiB.
    """
    size, rounds = (128 << 20, 2) if quick else (1 << 30, 5)
    series: list[Series] = []
    for server, start in SERVERS.items():
        if server != RCLONE and platform.freedesktop_os_release().get("VERSION_CODENAME") != "bookworm":
            print(f"  {server} is left out: it is taken from Debian 12", flush=True)
            continue
        print(f"  transfer: {server}", flush=True)
        with start() as environment, tempfile.TemporaryDirectory(prefix="bench-transfer-") as folder:
            series += _measure(server, environment, Path(folder), size, rounds)
    return series


def _measure(
    server: str, environment: Mapping[str, str], folder: Path, size: int, rounds: int
) -> list[Series]:
    with mock.patch.dict(os.environ, environment):
        settings = Settings.from_env({**environment, "TRITON_DEPLOY_REPOSITORY": str(folder)})
        settings = changed(settings, transfer__streams=STREAMS, transfer__range_bytes=RANGE_BYTES)
        store = S3Store(settings)
        original, target = folder / "original", folder / "target"
        block = os.urandom(RANGE_BYTES)
        with original.open("wb") as file:
            for _ in range(size // RANGE_BYTES):
                file.write(block)
        _upload(original, environment)
        source = store.source(f"s3://{BUCKET}", KEY)
        ways: dict[str, Callable[[], object]] = {
            LIMIT: lambda: bare(source.url, target, size),
            OURS: lambda: Transfer(settings).fetch(source, target, size, lambda count: None),
            COPY: lambda: subprocess.run(["cp", str(original), str(target)], check=True),
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, act in ways.items():
                started_s = time.perf_counter()
                act()
                # The first round warms up the server and the disk's allocation.
                if number:
                    took[way].append(time.perf_counter() - started_s)
                target.unlink()
                os.sync()
    return by_way(took, "s", baseline=LIMIT, name=f"{server}: {{}}")


def bare(url: str, target: Path, size: int) -> None:
    """Read an object in parallel ranges into a file, and do nothing else."""
    pool = urllib3.PoolManager(maxsize=STREAMS)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def read(start: int) -> None:
        end = min(start + RANGE_BYTES, size)
        response = pool.request(
            "GET", url, headers={"Range": f"bytes={start}-{end - 1}"}, preload_content=False
        )
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while start < end and (count := response.readinto(buffer)):
            os.pwrite(fd, buffer[:count], start)
            start += count
        response.release_conn()
        if start != end:
            raise RuntimeError(f"a range ended {end - start} bytes early")

    try:
        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(read, range(0, size, RANGE_BYTES)))
    finally:
        os.close(fd)


def _upload(file: Path, environment: Mapping[str, str]) -> None:
    import boto3
    from botocore.config import Config

    client: Any = boto3.client(
        "s3",
        endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=BUCKET)
    client.upload_file(str(file), BUCKET, KEY)


@contextlib.contextmanager
def _rclone() -> Iterator[Mapping[str, str]]:
    with servers("s3") as stack:
        yield {name: value for name, value in stack.environment.items() if name.startswith(("AWS", "MLFLOW"))}


@contextlib.contextmanager
def _ceph() -> Iterator[Mapping[str, str]]:
    from tests.support.servers.ceph_rgw import RadosGateway

    with (
        tempfile.TemporaryDirectory(prefix="bench-rgw-") as folder,
        RadosGateway(Path(folder) / "cluster") as gateway,
    ):
        yield {
            "MLFLOW_S3_ENDPOINT_URL": gateway.endpoint_url,
            "AWS_ACCESS_KEY_ID": gateway.access_key,
            "AWS_SECRET_ACCESS_KEY": gateway.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


RCLONE, CEPH = "rclone", "Ceph's RADOS Gateway"
SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[Mapping[str, str]]]] = {
    RCLONE: _rclone,
    CEPH: _ceph,
}
