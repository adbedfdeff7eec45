"""Artifacts in S3 itself (``s3://bucket/…``), with keys from the environment as boto3 finds them.

botocore's client only signs. The ``http`` package reads listings as well as files, with its limits of time
and size and with the same certificates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import AccessDenied, DeployError, Misconfigured, NotFound, Unavailable
from ..rules.locations import S3Place
from ..rules.version_files import RemoteFile
from ..settings import Settings
from . import http, s3_listing
from .http import deadline, library_logs, tls
from .listing import Listing
from .sources import Source, place_of

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on the worker to a user who may read the bucket."
_SKEWED = "Let NTP or chrony set this machine's clock: S3 takes no request whose time is another."
_AGAIN = "Check that it runs and that MLFLOW_S3_ENDPOINT_URL is right, then deploy again."


class S3Store:
    """Artifacts in S3.

    Args:
        settings: the endpoint and deadlines; keys, region, profile and certificates come from the
            environment.

    Raises:
        Misconfigured: a profile, region, configuration file or certificate that the environment names can't
            be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._endpoint = settings.transfer.s3_endpoint_url
        self._server = f"S3 at {http.shown(self._endpoint) if self._endpoint else 'AWS'}"
        self._timeout_s = settings.transfer.timeout_s
        self._trust = tls.trust("s3")
        self._client: Any = _made(lambda: _client(settings, self._trust))
        self._session = http.new_session(pool_size=1, trust=self._trust)

    def list_files(self, uri: str) -> list[RemoteFile]:
        """See ArtifactStore.list_files."""
        place = _in_s3(uri)
        prefix = f"{place.key}/" if place.key else ""
        listing = Listing(uri, self._server, self._timeout_s)
        files: list[RemoteFile] = []
        token = ""
        while True:
            response = self._page(place, prefix, token, uri, listing.next_timeout_s())
            page = s3_listing.page_of(response, self._server, f"the listing of {uri}")
            listing.page(response.content, len(page.objects))
            for key, size_bytes in page.objects:
                path = s3_listing.below(prefix, key, listing)
                # A folder that was made in a browser is an empty object with its name.
                if path and not path.endswith("/"):
                    files.append(listing.file(path, size_bytes))
            if not page.next_token:
                return sorted(files, key=lambda file: file.path)
            token = listing.token(page.next_token)

    def reach(self, uri: str) -> None:
        """List one name, to test whether the bucket of ``uri`` can be read; raises as ``list_files`` does."""
        response = self._page(S3Place(_in_s3(uri).bucket), "", "", uri, self._timeout_s, MaxKeys=1)
        s3_listing.page_of(response, self._server, f"the listing of {uri}")

    def make_bucket(self, bucket: str) -> bool:
        """Create a bucket; returns False for an existing bucket, which may be another user's.

        Raises as ``list_files`` does.
        """
        from botocore import exceptions

        def make() -> bool:
            region = self._client.meta.region_name
            # AWS refuses us-east-1 as a LocationConstraint; servers other than AWS have one region only.
            named = region not in (None, "us-east-1", "aws-global")
            where: Any = {"CreateBucketConfiguration": {"LocationConstraint": region}} if named else {}
            try:
                self._client.create_bucket(Bucket=bucket, **where)
            except exceptions.ClientError as error:
                # For a bucket of the same user, AWS answers the first code and some servers the second.
                # Reading the bucket then shows whose it is.
                taken = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
                if error.response.get("Error", {}).get("Code") not in taken:
                    raise
                return False
            return True

        return self._call(make, f"s3://{bucket}")

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket exists and can be read; raises as ``list_files`` does, except NotFound."""
        try:
            self.reach(f"s3://{bucket}")
        except NotFound:
            return False
        return True

    def source(self, uri: str, path: str) -> Source:
        """See ArtifactStore.source."""
        file = _in_s3(uri).child(path)
        url = self._signed("get_object", uri, Bucket=file.bucket, Key=file.key)
        return Source(url, self._server, ranged=True, trust=self._trust, renew=lambda: self.source(uri, path))

    def _page(
        self, place: S3Place, prefix: str, token: str, uri: str, timeout_s: float, **more: Any
    ) -> requests.Response:
        """Return one page of a listing."""
        following = {"ContinuationToken": token} if token else {}
        url = self._signed("list_objects_v2", uri, Bucket=place.bucket, Prefix=prefix, **following, **more)
        response = http.send(self._session, "GET", url, timeout_s=timeout_s, server=self._server, hint=_AGAIN)
        if response.status_code != 200:
            raise self._refusal(response, uri)
        return response

    def _signed(self, operation: str, uri: str, **params: Any) -> str:
        """Return the presigned URL of a GET."""
        return str(self._call(lambda: self._client.generate_presigned_url(operation, Params=params), uri))

    def _refusal(self, response: requests.Response, uri: str) -> DeployError:
        status, said = response.status_code, http.explanation(response)
        code = s3_listing.error_of(response.content).get("Code", "")
        region = s3_listing.error_of(response.content).get("Region", "")
        if region and (code.startswith("Authorization") or status in (301, 307)):
            return http.other_region(self._server, region)
        if code == "NoSuchBucket":
            return self._no_bucket(uri)
        if code == "RequestTimeTooSkewed":
            return Misconfigured(f"{self._server} refuses this machine's time: {said}.", hint=_SKEWED)
        if status in (401, 403) or (status == 400 and code):
            return AccessDenied(
                f"{self._server} denies access to {uri} ({code or status}): {said}.", hint=KEYS
            )
        if not code and status < 500 and status != 429:
            return Misconfigured(
                f"{self._server} does not answer the listing of {uri} as S3 does ({status}): {said}.",
                hint="Check MLFLOW_S3_ENDPOINT_URL, and whether a login page or a proxy stands before it.",
            )
        return Unavailable(
            f"{self._server} failed on {uri} ({code or status}): {said}.",
            hint="Look at the S3 server's log, then deploy again.",
        )

    def _no_bucket(self, uri: str) -> NotFound:
        return NotFound(
            f"{self._server} has no bucket for {uri}.",
            hint="Create the bucket ('triton-deploy init --bucket …' does), or correct MLFLOW_S3_ENDPOINT_URL.",
        )

    def _call(self, action: Callable[[], T], uri: str) -> T:
        """Run an action of botocore's client within the time limit: its keys may come from a server."""
        from botocore import exceptions

        try:
            return deadline.within(self._timeout_s, f"asking S3 for {uri}", action)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise AccessDenied(
                f"There are no S3 credentials for {uri}: {_said(error)}.", hint=KEYS
            ) from error
        except exceptions.ClientError as error:
            raise self._client_refusal(error, uri) from error
        except (exceptions.EndpointConnectionError, exceptions.HTTPClientError) as error:
            trouble = tls.refusal(error, self._server, "s3") or Unavailable(
                f"{self._server} can't be reached: {_said(error)}.", hint=_AGAIN
            )
            raise trouble from error
        except (exceptions.BotoCoreError, ValueError, OSError) as error:
            raise _unusable(error) from error

    def _client_refusal(self, error: Any, uri: str) -> DeployError:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return self._no_bucket(uri)
        if status in (400, 401, 403):
            return AccessDenied(f"{self._server} denies access to {uri} ({code or status}).", hint=KEYS)
        return Unavailable(
            f"{self._server} failed on {uri} ({code or status}).",
            hint="Look at the S3 server's log, then deploy again.",
        )


def _client(settings: Settings, trust: tls.Trust) -> Any:
    # botocore without boto3: boto3 adds above all transfers, which are not used here, and 0.1 s of import.
    from botocore.config import Config
    from botocore.session import Session

    # A new session: a shared session keeps its first keys for the life of the process.
    session = Session()
    session.register_component("data_loader", _descriptions_of_aws())
    client = session.create_client(
        "s3",
        endpoint_url=settings.transfer.s3_endpoint_url or None,
        verify=trust.verify,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.transfer.s3_endpoint_url else "auto"},
            # Three attempts fit into the limit.
            connect_timeout=settings.transfer.timeout_s / 3,
            read_timeout=settings.transfer.timeout_s / 3,
            retries={"total_max_attempts": 3},
        ),
    )
    library_logs.quieten()
    return client


def _made(make: Callable[[], T]) -> T:
    from botocore import exceptions

    try:
        return make()
    except (exceptions.BotoCoreError, ValueError, OSError) as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> DeployError:
    """Return the error for an unusable S3 setting in the environment or in a file of the AWS tools."""
    from botocore import exceptions

    said = _said(error)
    if isinstance(error, exceptions.ProfileNotFound):
        hint = "AWS_PROFILE names it: unset it, or add the profile to ~/.aws/config (AWS_CONFIG_FILE) of this worker."
    elif isinstance(error, exceptions.InvalidRegionError | exceptions.NoRegionError):
        hint = "Set AWS_DEFAULT_REGION to the region of the bucket, for example us-east-1; a profile may name one too."
    elif isinstance(error, exceptions.ConfigParseError | exceptions.ConfigNotFound):
        hint = "Correct that file, or set AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE to another."
    elif "endpoint" in said.lower():
        hint = "Set MLFLOW_S3_ENDPOINT_URL to the server with its scheme; AWS_ENDPOINT_URL and a profile may name one too."
    elif isinstance(error, exceptions.ParamValidationError):
        hint = "Correct the location: bucket and key are named in it."
    else:
        hint = "Correct the variables AWS_… of this worker, or the profile that they name."
    return Misconfigured(f"S3 can't be asked: {said}.", hint=hint)


def _said(error: Exception) -> str:
    return library_logs.redacted(" ".join(str(error).split())[:300]).rstrip(".")


@functools.cache
def _descriptions_of_aws() -> Any:
    """Return the loader of botocore's service descriptions, with its cache: that saves each client 0.1 s."""
    from botocore.session import Session

    return Session().get_component("data_loader")


def _in_s3(uri: str) -> S3Place:
    place = place_of(uri)
    assert isinstance(place, S3Place), uri
    return place
