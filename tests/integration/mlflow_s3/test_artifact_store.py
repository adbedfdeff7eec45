"""One contract for every artifact store: what it lists is what a transfer brings, and it says clearly when it can't.

Held to it: S3 itself on rclone and on Ceph's RADOS Gateway, MLflow's proxy with and without presigned URLs, and the fake.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from ml_code.triton_deploy.clients.artifacts import ArtifactStore, ProxiedStore, S3Store, Source, store_for
from ml_code.triton_deploy.clients.transfer import Transfer
from ml_code.triton_deploy.errors import (
    AccessDenied,
    ArtifactRejected,
    Misconfigured,
    NotFound,
    StorageFailed,
    Unavailable,
)
from ml_code.triton_deploy.rules.version_files import RemoteFile
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.fakes import fake_store
from tests.support.servers.ceph_rgw import RadosGateway
from tests.support.servers.relays import Relay, Reply, relay_to, silent_server
from tests.support.settings import changed

pytestmark = pytest.mark.integration

MIB = 1 << 20
PAGE = 1000
"""What S3 lists in one answer."""


# Servers in between, which spoil what they relay


def s3_client(url: str, key: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=16),
    )


def presigned_for(reply: Reply, host: str) -> None:
    """Make a presigned URL point at another host, as an MLflow in another network would hand it out."""
    if "/presigned/" in reply.path and reply.status == 200:
        answer = json.loads(reply.body)
        answer["url"] = urlsplit(answer["url"])._replace(netloc=host).geturl()
        reply.replace_body(json.dumps(answer).encode())


# The places


@dataclass
class Place:
    """A store and an empty directory of its own in it.

    Attributes:
        put: adds a file below the directory.
        drop: removes one.
        ranged: whether its files are read in ranges.
    """

    store: ArtifactStore
    settings: Settings
    uri: str
    put: Callable[[str, bytes], None]
    drop: Callable[[str], None]
    ranged: bool = True

    def fetch(self, path: str, target: Path, size_bytes: int, **settings: Any) -> str:
        transfer = Transfer(changed(self.settings, **settings))
        return transfer.fetch(self.store.source(self.uri, path), target, size_bytes, lambda count: None)


PLACES = ("rclone", "rgw", "presigned", "proxy", "fake")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets the keys that a worker has, as its environment would."""

    def set_keys(key: str, secret: str) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    return set_keys


@pytest.fixture
def place(request: pytest.FixtureRequest, aws: Callable[[str, str], None]) -> Iterator[Place]:
    kind: str = request.param
    unique = uuid.uuid4().hex
    if kind == "fake":
        with fake_store() as store:
            uri = f"fake://{unique}"
            yield Place(
                store,
                Settings(),
                uri,
                lambda path, body: store.objects.update({f"{uri}/{path}": body}),
                lambda path: store.objects.pop(f"{uri}/{path}") and None,
            )
        return
    if kind == "rgw":
        gateway: RadosGateway = request.getfixturevalue("rados_gateway")
        aws(gateway.access_key, gateway.secret_key)
        client = s3_client(gateway.endpoint_url, gateway.access_key, gateway.secret_key)
        bucket = f"contract-{unique[:8]}"
        client.create_bucket(Bucket=bucket)
        settings = changed(Settings(), transfer__s3_endpoint_url=gateway.endpoint_url)
        yield in_s3(S3Store(settings), settings, client, f"s3://{bucket}/a/{unique}", bucket, f"a/{unique}")
        return
    stack: Stack = request.getfixturevalue("mlflow_stack")
    environment = stack.environment
    keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    client = s3_client(environment["MLFLOW_S3_ENDPOINT_URL"], *keys)
    if kind == "rclone":
        aws(*keys)
        settings = changed(Settings(), transfer__s3_endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"])
        yield in_s3(S3Store(settings), settings, client, f"s3://mlflow/x/{unique}", "mlflow", f"x/{unique}")
        return
    uri, prefix = f"mlflow-artifacts:/{unique}", f"artifacts/{unique}"
    if kind == "presigned":
        settings = changed(Settings(), mlflow__tracking_uri=environment["MLFLOW_TRACKING_URI"])
        yield in_s3(ProxiedStore(settings), settings, client, uri, "mlflow", prefix)
        return
    with relay_to(environment["MLFLOW_TRACKING_URI"]) as relay, silent_server() as unreachable:
        relay.spoil = lambda reply: presigned_for(reply, unreachable)
        settings = changed(Settings(), mlflow__tracking_uri=relay.url, transfer__probe_timeout_s=0.2)
        proxied = in_s3(ProxiedStore(settings), settings, client, uri, "mlflow", prefix)
        yield replace(proxied, ranged=False)


def in_s3(store: ArtifactStore, settings: Settings, client: Any, uri: str, bucket: str, prefix: str) -> Place:
    def put(path: str, body: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=body)

    def drop(path: str) -> None:
        client.delete_object(Bucket=bucket, Key=f"{prefix}/{path}")

    return Place(store, settings, uri, put, drop)


on_all = pytest.mark.parametrize("place", PLACES, indirect=True)
on_real_ones = pytest.mark.parametrize("place", PLACES[:-1], indirect=True)


# Listing


@on_all
def test_a_directory_is_listed_whole_and_sorted(place: Place) -> None:
    content = {
        "model.onnx": b"12345",
        "triton/golden.json": b"{}",
        "triton/config.json": b"",
        "a/b/c/deep.bin": b"x" * 10,
        "weights é ü.data": b"123",
        "with space+plus&eq=.data": b"1234",
    }
    for path, body in content.items():
        place.put(path, body)
    assert place.store.list_files(place.uri) == [
        RemoteFile(path, len(content[path])) for path in sorted(content)
    ]


@on_all
def test_an_empty_place_has_no_files(place: Place) -> None:
    assert place.store.list_files(place.uri) == []


@on_all
def test_a_sibling_with_the_same_beginning_is_not_listed(place: Place) -> None:
    place.put("onnx/model.onnx", b"mine")
    place.put("onnx-other/model.onnx", b"another's")
    inside = replace(place, uri=f"{place.uri}/onnx")
    assert inside.store.list_files(inside.uri) == [RemoteFile("model.onnx", 4)]


@on_all
def test_a_listing_of_more_than_one_page_is_complete(place: Place) -> None:
    names = [f"part-{number:04d}" for number in range(PAGE + 5)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: place.put(name, b"1"), names))
    assert [file.path for file in place.store.list_files(place.uri)] == names


# Transfers


@on_all
@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 3 * MIB + 17])
def test_what_arrives_is_what_was_stored(place: Place, tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    place.put("model.onnx", body)
    arrived = []
    transfer = Transfer(changed(place.settings, transfer__range_bytes=MIB, transfer__streams=3))
    source = place.store.source(place.uri, "model.onnx")
    assert source.ranged == place.ranged
    sha256 = transfer.fetch(source, tmp_path / "model.onnx", size, arrived.append)
    assert (tmp_path / "model.onnx").read_bytes() == body
    assert sha256 == hashlib.sha256(body).hexdigest()
    assert sum(arrived) == size


@on_real_ones
@pytest.mark.parametrize("name", ["weights é ü.data", "with space+plus&eq=.data", "a/b/c.bin"])
def test_any_name_can_be_fetched(place: Place, tmp_path: Path, name: str) -> None:
    place.put(name, b"its bytes")
    assert place.fetch(name, tmp_path / "f", 9) == hashlib.sha256(b"its bytes").hexdigest()


@on_all
@pytest.mark.parametrize("listed", [1, 2 * MIB - 1, 2 * MIB + 1, 5 * MIB])
def test_another_size_than_listed_is_an_error(place: Place, tmp_path: Path, listed: int) -> None:
    place.put("model.onnx", os.urandom(2 * MIB))
    with pytest.raises(Unavailable, match="not what was listed") as failure:
        place.fetch("model.onnx", tmp_path / "f", listed, transfer__range_bytes=MIB)
    assert "log it again" in failure.value.hint


@on_all
def test_an_object_that_is_gone_is_named_as_such(place: Place, tmp_path: Path) -> None:
    place.put("model.onnx", b"12345")
    place.drop("model.onnx")
    with pytest.raises(NotFound, match="no longer has the artifact") as failure:
        place.fetch("model.onnx", tmp_path / "f", 5)
    assert "Register the model version again" in failure.value.hint


@on_all
def test_a_target_that_cant_be_written_is_the_repositorys_failure(place: Place) -> None:
    place.put("model.onnx", os.urandom(2 * MIB))
    with pytest.raises(StorageFailed, match="No space left on device"):
        place.fetch("model.onnx", Path("/dev/full"), 2 * MIB)


MEMORY = """
import json, resource, sys
from pathlib import Path
from ml_code.triton_deploy.clients.artifacts import store_for
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.clients.transfer import Transfer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

uri, target = sys.argv[1:]
settings = Settings.from_env()
store = store_for(uri, settings)
sizes = {file.path: file.size_bytes for file in store.list_files(uri)}
transfer = Transfer(settings)
transfer.fetch(store.source(uri, "small"), Path(target), sizes["small"], lambda count: None)
before = peak()
sha256 = transfer.fetch(store.source(uri, "large"), Path(target), sizes["large"], lambda count: None)
print(json.dumps([sha256, peak() - before]))
"""


@pytest.mark.parametrize("place", ["rclone", "presigned", "proxy"], indirect=True)
def test_memory_does_not_grow_with_the_artifact(place: Place, tmp_path: Path) -> None:
    large = os.urandom(MIB) * 200
    place.put("small", b"1")
    place.put("large", large)
    environment = {
        **os.environ,
        "MLFLOW_S3_ENDPOINT_URL": place.settings.transfer.s3_endpoint_url,
        "MLFLOW_TRACKING_URI": place.settings.mlflow.tracking_uri,
        "TRITON_DEPLOY_PROBE_TIMEOUT_S": "0.2",
        "TRITON_DEPLOY_ARTIFACT_ROOTS": "s3://mlflow",
    }
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, place.uri, str(tmp_path / "f")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    sha256, grown = json.loads(run.stdout)
    assert sha256 == hashlib.sha256(large).hexdigest()
    assert grown < 60 * MIB


# A connection that breaks, a server that is silent


@dataclass
class Spoiled:
    """An object in a real S3 server behind a relay."""

    relay: Relay
    store: S3Store
    settings: Settings
    client: Any
    body: bytes

    def fetch(self, target: Path, **settings: Any) -> str:
        transfer = Transfer(changed(self.settings, transfer__range_bytes=MIB, **settings))
        source = self.store.source("s3://mlflow/spoiled", "model.onnx")
        return transfer.fetch(source, target, len(self.body), lambda count: None)

    @property
    def ranges(self) -> list[str]:
        return [headers.get("Range", "") for _, headers in self.relay.requests]


@pytest.fixture
def spoiled(mlflow_stack: Stack, aws: Callable[[str, str], None]) -> Iterator[Spoiled]:
    environment = mlflow_stack.environment
    keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    aws(*keys)
    body = os.urandom(3 * MIB + 5)
    client = s3_client(environment["MLFLOW_S3_ENDPOINT_URL"], *keys)
    client.put_object(Bucket="mlflow", Key="spoiled/model.onnx", Body=body)
    with relay_to(environment["MLFLOW_S3_ENDPOINT_URL"]) as relay:
        settings = changed(Settings(), transfer__s3_endpoint_url=relay.url)
        yield Spoiled(relay, S3Store(settings), settings, client, body)


def test_a_range_whose_connection_broke_goes_on_where_it_was(spoiled: Spoiled, tmp_path: Path) -> None:
    def cut_once(reply: Reply) -> None:
        if len(spoiled.relay.requests) == 2:
            reply.sent_bytes = 1000

    spoiled.relay.spoil = cut_once
    sha256 = spoiled.fetch(tmp_path / "f", transfer__streams=1)
    assert (tmp_path / "f").read_bytes() == spoiled.body
    assert sha256 == hashlib.sha256(spoiled.body).hexdigest()
    assert spoiled.ranges[1:3] == [f"bytes={MIB}-{2 * MIB - 1}", f"bytes={MIB + 1000}-{2 * MIB - 1}"]
    assert len(spoiled.ranges) == 5, "the others are read once"
    conditions = {headers.get("If-Match") for _, headers in spoiled.relay.requests[1:]}
    assert len(conditions) == 1
    assert None not in conditions


def test_a_connection_that_always_breaks_is_given_up(spoiled: Spoiled, tmp_path: Path) -> None:
    spoiled.relay.spoil = lambda reply: setattr(reply, "sent_bytes", 100)
    with pytest.raises(Unavailable, match="broke the connection off") as failure:
        spoiled.fetch(tmp_path / "f", transfer__timeout_s=1.0)
    assert spoiled.relay.url in failure.value.message
    assert "deploy again" in failure.value.hint


def test_a_stream_through_the_proxy_that_breaks_is_no_model(mlflow_stack: Stack, tmp_path: Path) -> None:
    environment = mlflow_stack.environment
    keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    client = s3_client(environment["MLFLOW_S3_ENDPOINT_URL"], *keys)
    client.put_object(Bucket="mlflow", Key="artifacts/broken/model.onnx", Body=os.urandom(MIB))

    def spoil(reply: Reply) -> None:
        presigned_for(reply, "127.0.0.1:1")
        if reply.path.endswith("/artifacts/broken/model.onnx"):
            reply.sent_bytes = MIB // 2

    with relay_to(environment["MLFLOW_TRACKING_URI"]) as relay:
        relay.spoil = spoil
        settings = changed(Settings(), mlflow__tracking_uri=relay.url)
        source = ProxiedStore(settings).source("mlflow-artifacts:/broken", "model.onnx")
        with pytest.raises(Unavailable, match="broke the connection off"):
            Transfer(settings).fetch(source, tmp_path / "f", MIB, lambda count: None)


def test_a_server_without_ranges_is_read_in_one_stream(spoiled: Spoiled, tmp_path: Path) -> None:
    def whole(reply: Reply) -> None:
        reply.headers.pop("content-range", None)
        reply.replace_body(spoiled.body, 200)

    spoiled.relay.spoil = whole
    assert spoiled.fetch(tmp_path / "f") == hashlib.sha256(spoiled.body).hexdigest()
    assert spoiled.ranges[-1] == "", "all of it, in one answer"


def test_an_object_that_is_replaced_meanwhile_is_refused(spoiled: Spoiled, tmp_path: Path) -> None:
    """Whether or not the server looks at If-Match: rclone does not."""

    def replace_it(reply: Reply) -> None:
        if len(spoiled.relay.requests) == 1:
            spoiled.client.put_object(
                Bucket="mlflow", Key="spoiled/model.onnx", Body=os.urandom(len(spoiled.body))
            )

    spoiled.relay.spoil = replace_it
    with pytest.raises(Unavailable, match="was replaced"):
        spoiled.fetch(tmp_path / "f")


def test_a_silent_server_is_given_up_in_time(tmp_path: Path, aws: Callable[[str, str], None]) -> None:
    aws("key", "secret")
    with silent_server() as host:
        settings = changed(
            Settings(),
            transfer__s3_endpoint_url=f"http://{host}",
            transfer__timeout_s=1,
            transfer__range_bytes=MIB,
        )
        with within(3), pytest.raises(Unavailable, match="MLFLOW_S3_ENDPOINT_URL"):
            S3Store(settings).list_files("s3://bucket/place")
        for ranged in (True, False):
            source = Source(f"http://{host}/model.onnx", f"S3 at http://{host}", ranged)
            with within(2), pytest.raises(Unavailable, match=f"S3 at http://{host} did not answer in time"):
                Transfer(settings).fetch(source, tmp_path / "f", 3 * MIB, lambda count: None)


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < limit_s


# Refusals


S3_SERVERS = ("rclone", "rgw")


@pytest.mark.parametrize("place", S3_SERVERS, indirect=True)
@pytest.mark.parametrize("keys", [("", "wrong"), ("nobody", "")])
def test_wrong_keys_are_an_access_denied_that_names_the_variables(
    place: Place, aws: Callable[[str, str], None], tmp_path: Path, keys: tuple[str, str]
) -> None:
    place.put("model.onnx", b"12345")
    key, secret = (
        given or os.environ[name]
        for given, name in zip(keys, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), strict=True)
    )
    aws(key, secret)
    denied = replace(place, store=S3Store(place.settings))
    with pytest.raises(AccessDenied, match="denies access to s3://") as failure:
        denied.store.list_files(denied.uri)
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in failure.value.hint
    assert secret not in str(failure.value)
    with pytest.raises(AccessDenied, match="denies the artifact") as failure:
        denied.fetch("model.onnx", tmp_path / "f", 5)
    assert "keys" in failure.value.hint


def test_no_keys_at_all_is_an_access_denied_that_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    store = S3Store(changed(Settings(), transfer__s3_endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(AccessDenied, match="no S3 credentials for s3://bucket/place") as failure:
        store.list_files("s3://bucket/place")
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in failure.value.hint
    with pytest.raises(AccessDenied, match="no S3 credentials"):
        store.source("s3://bucket/place", "model.onnx")


@pytest.mark.parametrize("place", S3_SERVERS, indirect=True)
def test_a_bucket_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(NotFound, match="has no bucket for s3://no-such-bucket/place") as failure:
        place.store.list_files("s3://no-such-bucket/place")
    assert "MLFLOW_S3_ENDPOINT_URL" in failure.value.hint


def test_an_s3_that_refuses_connections_is_named_with_its_variable(aws: Callable[[str, str], None]) -> None:
    aws("key", "secret")
    store = S3Store(changed(Settings(), transfer__s3_endpoint_url="http://127.0.0.1:1"))
    with (
        within(5),
        pytest.raises(Unavailable, match=r"S3 at http://127\.0\.0\.1:1 can't be reached") as failure,
    ):
        store.list_files("s3://bucket/place")
    assert "MLFLOW_S3_ENDPOINT_URL" in failure.value.hint


REFUSALS = [
    (401, b"You are not authenticated.", AccessDenied, "MLFLOW_TRACKING_TOKEN"),
    (403, b"Permission denied", AccessDenied, "MLFLOW_TRACKING_USERNAME"),
    # What MLflow 3.17 says with --no-serve-artifacts (mlflow/server/handlers.py).
    (
        503,
        b"Endpoint disabled due to the mlflow server running with `--no-serve-artifacts`.",
        Misconfigured,
        "--serve",
    ),
    (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid path"}', Misconfigured, "names"),
    (500, b'{"error_code": "INTERNAL_ERROR", "message": "no S3"}', Unavailable, "has its keys"),
]


@pytest.mark.parametrize(("status", "text", "error", "hint"), REFUSALS)
def test_what_mlflows_proxy_refuses_says_what_to_do(
    mlflow_stack: Stack, status: int, text: bytes, error: type[Exception], hint: str
) -> None:
    with relay_to(mlflow_stack.environment["MLFLOW_TRACKING_URI"]) as relay:
        relay.spoil = lambda reply: reply.replace_body(text, status)
        store = ProxiedStore(changed(Settings(), mlflow__tracking_uri=relay.url))
        for action in (
            lambda: store.list_files("mlflow-artifacts:/x"),
            lambda: store.source("mlflow-artifacts:/x", "f"),
        ):
            with pytest.raises(error, match=rf"MLflow at {relay.url} .*\({status}\)") as failure:
                action()
            assert hint in failure.value.hint  # type: ignore[attr-defined]
            assert "{" not in str(failure.value)


def test_mlflows_credentials_go_to_mlflow_and_not_to_s3(mlflow_stack: Stack, tmp_path: Path) -> None:
    environment = mlflow_stack.environment
    keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    client = s3_client(environment["MLFLOW_S3_ENDPOINT_URL"], *keys)
    client.put_object(Bucket="mlflow", Key="artifacts/with-token/model.onnx", Body=b"12345")
    with (
        relay_to(environment["MLFLOW_TRACKING_URI"]) as mlflow,
        relay_to(environment["MLFLOW_S3_ENDPOINT_URL"]) as s3,
    ):
        # The relay of S3 is seen by the client alone: to S3 the request names another host than was signed.
        settings = changed(
            Settings(), mlflow__tracking_uri=mlflow.url, mlflow__token="a-token", transfer__probe_timeout_s=1
        )
        mlflow.spoil = lambda reply: presigned_for(reply, urlsplit(s3.url).netloc)
        source = ProxiedStore(settings).source("mlflow-artifacts:/with-token", "model.onnx")
        assert not source.ranged, "the signature does not fit the relay"
        Transfer(settings).fetch(source, tmp_path / "f", 5, lambda count: None)
    assert [headers["Authorization"] for _, headers in mlflow.requests] == ["Bearer a-token"] * 2
    assert s3.requests
    assert not any("Authorization" in headers for _, headers in s3.requests)
    assert "a-token" not in repr(source)


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("file:///srv/mlruns/1", "a file:// URL"),
        ("file:///E:/mlruns/1", "a file:// URL of a Windows drive"),
        ("E:\\mlruns\\1", "a path on a Windows drive"),
        ("mlruns\\1", "a path with back-slashes"),
        ("/srv/mlruns/1", "a path without a scheme"),
        ("./mlruns/1", "a relative path"),
    ],
)
def test_a_place_that_only_another_machine_can_read_is_refused(uri: str, kind: str) -> None:
    with pytest.raises(Misconfigured, match="only the machine that logged them") as failure:
        store_for(uri, Settings())
    assert f"are at {uri}, {kind}" in failure.value.message
    assert "--artifacts-destination" in failure.value.hint
    assert "triton-deploy init" in failure.value.hint


@pytest.mark.parametrize("uri", ["dbfs:/models/x", "hdfs://nn/x", "gs://bucket/x"])
def test_a_store_that_nobody_here_can_read_is_refused(uri: str) -> None:
    with pytest.raises(Misconfigured, match="a store that is not read from here") as failure:
        store_for(uri, Settings())
    assert "--artifacts-destination" in failure.value.hint


def test_a_place_outside_mlflows_store_is_refused() -> None:
    settings = changed(Settings(), mlflow__tracking_uri="http://127.0.0.1:1")
    with pytest.raises(ArtifactRejected, match="points outside its store"):
        store_for("mlflow-artifacts:/1/../../etc", settings).list_files("mlflow-artifacts:/1/../../etc")
