"""What the artifact store takes for granted of an S3 server, asked of a real one.

The rules are those of Amazon S3's API reference (GetObject, PutObject, CreateMultipartUpload).
"""

import hashlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.support.servers import ceph_rgw
from tests.support.servers.ceph_rgw import GatewayStartError, RadosGateway

pytestmark = pytest.mark.integration

MIB = 1024**2


def s3_client(gateway: RadosGateway, secret_key: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=gateway.endpoint_url,
        aws_access_key_id=gateway.access_key,
        aws_secret_access_key=secret_key or gateway.secret_key,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
        ),
    )


@pytest.fixture(scope="module")
def s3(rados_gateway: RadosGateway) -> Any:
    return s3_client(rados_gateway)


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


def refusal(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def test_an_object_is_read_back_as_written(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="model é/model.onnx", Body=b"weights")

    assert s3.get_object(Bucket=bucket, Key="model é/model.onnx")["Body"].read() == b"weights"


def test_a_range_through_a_presigned_url_is_answered_206_with_its_bytes(s3: Any, bucket: str) -> None:
    body = os.urandom(6 * MIB)
    s3.put_object(Bucket=bucket, Key="model.onnx", Body=body)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "model.onnx"})

    # The range spans two of the gateway's 4 MiB chunks.
    request = urllib.request.Request(url, headers={"Range": f"bytes={3 * MIB}-{5 * MIB - 1}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {3 * MIB}-{5 * MIB - 1}/{6 * MIB}"
        assert response.read() == body[3 * MIB : 5 * MIB]


def test_a_wrong_secret_is_refused(rados_gateway: RadosGateway, bucket: str) -> None:
    with pytest.raises(ClientError) as refused:
        s3_client(rados_gateway, secret_key="wrong").list_objects_v2(Bucket=bucket)

    assert refusal(refused.value) == (403, "SignatureDoesNotMatch")


def test_a_presigned_url_with_an_altered_key_is_refused(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="secret", Body=b"weights")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "public"})

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url.replace("/public?", "/secret?"), timeout=30)

    assert refused.value.code == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in refused.value.read()


def test_a_missing_key_is_not_found(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="missing")

    assert refusal(refused.value) == (404, "NoSuchKey")


def test_a_conditional_put_does_not_overwrite(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="lease", Body=b"first", IfNoneMatch="*")

    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="lease", Body=b"second", IfNoneMatch="*")

    assert refusal(refused.value) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="lease")["Body"].read() == b"first"


def test_a_multipart_upload_is_listed_and_read(s3: Any, bucket: str) -> None:
    parts = [os.urandom(8 * MIB), os.urandom(8 * MIB), os.urandom(4 * MIB)]
    target = {"Bucket": bucket, "Key": "model.onnx.data"}
    upload = {**target, "UploadId": s3.create_multipart_upload(**target)["UploadId"]}
    etags = [
        {"PartNumber": number, "ETag": s3.upload_part(**upload, PartNumber=number, Body=p)["ETag"]}
        for number, p in enumerate(parts, start=1)
    ]
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)

    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": etags})

    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [("model.onnx.data", 20 * MIB)]
    read = s3.get_object(**target)["Body"].read()
    assert hashlib.sha256(read).digest() == hashlib.sha256(b"".join(parts)).digest()


def processes_of(state_dir: Path) -> list[str]:
    """Command lines, with NUL for space, of the running processes that name `state_dir`."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_text(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return [command for command in commands if str(state_dir) in command]


@pytest.mark.usefixtures("rados_gateway")
def test_leaving_the_context_ends_every_process(tmp_path: Path) -> None:
    with RadosGateway(tmp_path):
        assert len(processes_of(tmp_path)) == 3

    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("rados_gateway")
def test_a_start_that_takes_too_long_shows_the_logs_and_ends_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceph_rgw, "_answers_http", lambda _port: False)
    monkeypatch.setattr(ceph_rgw, "START_TIMEOUT_S", 3.0)

    with (
        pytest.raises(GatewayStartError, match=r"ceph-mon\.log \(last lines\)"),
        RadosGateway(tmp_path),
    ):
        pass

    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("rados_gateway")
def test_an_interrupted_start_ends_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_port: int) -> bool:
        if len(processes_of(tmp_path)) == 3:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(ceph_rgw, "_answers_http", interrupt)

    with pytest.raises(KeyboardInterrupt), RadosGateway(tmp_path):
        pass

    assert processes_of(tmp_path) == []


@pytest.mark.usefixtures("rados_gateway")
def test_the_cluster_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal\n"
        "from tests.support.servers.ceph_rgw import RadosGateway\n"
        f"gateway = RadosGateway(pathlib.Path({str(tmp_path)!r}))\n"
        "gateway.__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", script], check=False, cwd=root, timeout=90)

    assert killed.returncode == -9
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []
