"""Where artifacts are: behind MLflow's proxy, or in S3 itself. Lists them, and says how to read each.

Both ways end in an HTTP GET that transfer.py streams to disk. Behind the proxy, MLflow hands out presigned URLs when its
store is S3; they allow ranged parallel reads without keys on the worker, and the proxy remains for when S3 can't be reached
from here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from . import http
from .errors import (
    AccessDenied,
    ArtifactRejected,
    DeployError,
    InvalidInput,
    Misconfigured,
    NotFound,
    Unavailable,
)
from .locations import Place, ProxyPlace, S3Place, not_from_here, parse_place
from .settings import Settings

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class RemoteFile:
    """A file of an artifact directory: path relative to it, size in bytes."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Source:
    """How to read one file.

    Attributes:
        url: address of a GET.
        server: what to call the server in a message.
        ranged: whether it answers ranges.
        headers: request headers, credentials among them.
        auth: user and password.
    """

    url: str = field(repr=False)
    server: str
    ranged: bool
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)


class ArtifactStore(Protocol):
    """What a deploy asks of the place where artifacts are."""

    def list_files(self, uri: str) -> list[RemoteFile]:
        """Return every file below ``uri``, sorted by path; empty when there is nothing.

        Raises:
            AccessDenied, Misconfigured, NotFound, Unavailable: the store refuses, is not one, or does not answer.
        """

    def source(self, uri: str, path: str) -> Source:
        """Return how to read the file ``path`` below ``uri``; same errors."""


def store_for(uri: str, settings: Settings) -> ArtifactStore:
    """Return the store that holds ``uri``.

    Raises:
        Misconfigured: a place that this machine can't read from.
        ArtifactRejected: no place at all.
    """
    place = _place(uri)
    if isinstance(place, S3Place):
        return S3Store(settings)
    if isinstance(place, ProxyPlace):
        return ProxiedStore(settings)
    raise not_from_here(place)


class ProxiedStore:
    """Artifacts that the MLflow server hands out (``mlflow-artifacts:/…``)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = http.new_session(pool_size=1)
        self._reached: dict[str, bool] = {}

    def list_files(self, uri: str) -> list[RemoteFile]:
        """See ArtifactStore.list_files."""
        return sorted(self._walk(_proxied(uri).path, PurePosixPath()), key=lambda file: file.path)

    def source(self, uri: str, path: str) -> Source:
        """See ArtifactStore.source."""
        full = quote(_proxied(uri).child(path).path)
        presigned = self._get(f"presigned/{full}")
        if presigned.ok:
            url = str(presigned.json()["url"])
            if self._reachable(url):
                return Source(url, f"S3 at {_origin(url)}", ranged=True)
        elif presigned.status_code not in (404, 405, 501):
            raise self._refusal(presigned)
        return Source(
            f"{self._settings.tracking_url}/api/2.0/mlflow-artifacts/artifacts/{full}",
            self._server,
            ranged=False,
            headers=self._headers,
            auth=self._auth,
        )

    def _walk(self, root: str, folder: PurePosixPath) -> list[RemoteFile]:
        response = self._get("artifacts", path=str(PurePosixPath(root) / folder))
        if not response.ok:
            raise self._refusal(response)
        files: list[RemoteFile] = []
        for entry in response.json().get("files", []):
            path = folder / PurePosixPath(entry["path"]).name
            if entry.get("is_dir"):
                files += self._walk(root, path)
            else:
                files.append(RemoteFile(str(path), int(entry.get("file_size") or 0)))
        return files

    def _reachable(self, url: str) -> bool:
        """Whether S3 can be read from here, which may be another network than MLflow's server is in; tried with one file."""
        origin = _origin(url)
        if origin not in self._reached:
            self._reached[origin] = self._probe(url)
        return self._reached[origin]

    def _probe(self, url: str) -> bool:
        """Read one byte."""
        try:
            response = http.get(
                self._session,
                url,
                headers={"Range": "bytes=0-0"},
                timeout_s=self._settings.probe_timeout_s,
                server=_origin(url),
                hint="",
                stream=True,
            )
        except Unavailable:
            return False
        with response:
            return response.status_code in (200, 206, 416)

    def _get(self, endpoint: str, **params: str) -> requests.Response:
        return http.get(
            self._session,
            f"{self._settings.tracking_url}/api/2.0/mlflow-artifacts/{endpoint}",
            params=params,
            headers=self._headers,
            auth=self._auth,
            timeout_s=self._settings.mlflow_timeout_s,
            server=self._server,
            hint="Check that MLflow runs and can reach its artifact store, then deploy again.",
        )

    def _refusal(self, response: requests.Response) -> DeployError:
        status, text = response.status_code, http.explanation(response)
        if status in (401, 403):
            return AccessDenied(
                f"{self._server} denies access to artifacts ({status}): {text}.",
                hint="Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            )
        message = f"{self._server} can't hand out artifacts ({status}): {text}."
        if status in (404, 501) or "--no-serve-artifacts" in text:
            return Misconfigured(
                message, hint="Start MLflow with --serve-artifacts and --artifacts-destination."
            )
        if status < 500:
            return Misconfigured(
                message, hint="Check the names of the model version's files, and MLflow's log."
            )
        return Unavailable(
            message,
            hint="Check that MLflow's artifact store (S3) runs and that MLflow has its keys; see MLflow's log.",
        )

    @property
    def _server(self) -> str:
        return f"MLflow at {self._settings.tracking_url}"

    @property
    def _headers(self) -> dict[str, str]:
        return (
            {"Authorization": f"Bearer {self._settings.mlflow_token}"} if self._settings.mlflow_token else {}
        )

    @property
    def _auth(self) -> tuple[str, str] | None:
        return (
            (self._settings.mlflow_username, self._settings.mlflow_password)
            if self._settings.mlflow_username
            else None
        )


class S3Store:
    """Artifacts in S3 (``s3://bucket/…``), with keys from the environment as boto3 finds them."""

    def __init__(self, settings: Settings) -> None:
        # What boto3 adds, transfers above all, is not used here and costs a deploy a tenth of a second to import.
        from botocore.config import Config
        from botocore.session import Session

        self._server = f"S3 at {settings.s3_endpoint_url or 'AWS'}"
        # A session of its own: a shared one keeps the first keys that it found for the life of the process.
        session = Session()
        session.register_component("data_loader", _descriptions_of_aws())
        self._client: Any = session.create_client(
            "s3",
            endpoint_url=settings.s3_endpoint_url or None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
                # Three attempts within the limit.
                connect_timeout=settings.transfer_timeout_s / 3,
                read_timeout=settings.transfer_timeout_s / 3,
                retries={"total_max_attempts": 3},
            ),
        )

    def list_files(self, uri: str) -> list[RemoteFile]:
        """See ArtifactStore.list_files."""
        place = _in_s3(uri)
        prefix = f"{place.key}/" if place.key else ""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
        objects = self._call(lambda: [item for page in pages for item in page.get("Contents", [])], uri)
        files = (RemoteFile(item["Key"].removeprefix(prefix), int(item["Size"])) for item in objects)
        return sorted(
            (file for file in files if file.path and not file.path.endswith("/")), key=lambda file: file.path
        )

    def reach(self, uri: str) -> None:
        """Read the first name in the bucket of ``uri``, which says whether its files can be read; same errors."""
        bucket = _in_s3(uri).bucket
        self._call(lambda: self._client.list_objects_v2(Bucket=bucket, MaxKeys=1), uri)

    def make_bucket(self, bucket: str) -> bool:
        """Create a bucket; returns False when it is there already, and maybe another user's. Same errors."""
        from botocore import exceptions

        def make() -> bool:
            region = self._client.meta.region_name
            # The oldest region of AWS has no name here, and other servers have but one.
            named = region not in (None, "us-east-1", "aws-global")
            where: Any = {"CreateBucketConfiguration": {"LocationConstraint": region}} if named else {}
            try:
                self._client.create_bucket(Bucket=bucket, **where)
            except exceptions.ClientError as error:
                # Of an own bucket, AWS says the first and some servers the second: reading it tells.
                taken = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
                if error.response.get("Error", {}).get("Code") not in taken:
                    raise
                return False
            return True

        return bool(self._call(make, f"s3://{bucket}"))

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket is there and can be read; same errors, but for a missing one."""
        try:
            self.reach(f"s3://{bucket}")
        except NotFound:
            return False
        return True

    def source(self, uri: str, path: str) -> Source:
        """See ArtifactStore.source."""
        file = _in_s3(uri).child(path)
        target = {"Bucket": file.bucket, "Key": file.key}
        url = self._call(lambda: self._client.generate_presigned_url("get_object", Params=target), uri)
        return Source(str(url), self._server, ranged=True)

    def _call(self, action: Any, uri: str) -> Any:
        from botocore import exceptions

        keys = (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on the worker to a user who may read the bucket."
        )
        try:
            return action()
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise AccessDenied(f"There are no S3 credentials for {uri}: {error}.", hint=keys) from error
        except exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == "NoSuchBucket":
                raise NotFound(
                    f"{self._server} has no bucket for {uri}.",
                    hint="Create the bucket ('triton-deploy init --bucket …' does), or correct MLFLOW_S3_ENDPOINT_URL.",
                ) from error
            if status in (400, 401, 403):
                raise AccessDenied(
                    f"{self._server} denies access to {uri} ({code or status}).", hint=keys
                ) from error
            raise Unavailable(
                f"{self._server} failed on {uri} ({code or status}).",
                hint="Look at the S3 server's log, then deploy again.",
            ) from error
        except (exceptions.BotoCoreError, ValueError) as error:
            raise Unavailable(
                f"{self._server} can't be reached: {error}.",
                hint="Check that it runs and that MLFLOW_S3_ENDPOINT_URL is right, then deploy again.",
            ) from error


@functools.cache
def _descriptions_of_aws() -> Any:
    """Return what reads botocore's descriptions of AWS's services, and remembers them: a tenth of a second for each client."""
    from botocore.session import Session

    return Session().get_component("data_loader")


def _place(uri: str) -> Place:
    try:
        return parse_place(uri)
    except InvalidInput as error:
        raise ArtifactRejected(
            f"The artifact location {uri} points outside its store, or is none. {error.message}",
            hint="Register the model version again.",
        ) from error


def _proxied(uri: str) -> ProxyPlace:
    place = _place(uri)
    assert isinstance(place, ProxyPlace), uri
    return place


def _in_s3(uri: str) -> S3Place:
    place = _place(uri)
    assert isinstance(place, S3Place), uri
    return place


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
