"""Make the places that a first deploy needs: the repository's folder, the bucket, two experiments in MLflow.

The artifacts of one experiment are behind MLflow's proxy, those of the other directly in S3. A place that
is there is left as it is, so several users may run this at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..clients.artifacts import S3Store
from ..clients.http.answers import JsonAnswer
from ..clients.mlflow_api import MlflowApi
from ..errors import InvalidInput, Misconfigured, NotFound
from ..repository.durable import make_directory
from ..rules.artifact_roots import VARIABLE
from ..rules.locations import Place, ProxyPlace, S3Place, parse_place
from ..settings import Settings
from ..storage import storage_errors

ROOT_MODE = 0o755
"""Mode of the repository's folder: the deployer writes, and Triton, which may run as another user, reads."""


@dataclass(frozen=True, kw_only=True)
class InitRequest:
    """The names of the wanted places.

    Attributes:
        bucket: bucket for artifacts; empty for no bucket and no direct experiment.
        proxied: experiment whose artifacts MLflow hands out.
        direct: experiment whose artifacts are in the bucket.
    """

    bucket: str
    proxied: str
    direct: str


@dataclass(frozen=True)
class SetUpStep:
    """The result for one wanted place.

    Attributes:
        what: the place, for messages.
        made: whether it was made; with ``dry_run``, whether it has to be made.
        to_set: variable and value that the deployers' environment lacks; or empty.
    """

    what: str
    made: bool
    to_set: str = ""


class Wanted(Protocol):
    """A place that has to exist."""

    @property
    def what(self) -> str:
        """The place, for messages."""

    def there(self) -> bool:
        """Whether it exists; raises Misconfigured when something else has its name."""

    def make(self) -> None:
        """Make it; no error when another process has just made it."""


def initialize(settings: Settings, request: InitRequest, *, dry_run: bool) -> Iterator[SetUpStep]:
    """Make the missing places, and yield the result for each.

    Args:
        settings: where the servers and the repository are.
        request: the wanted places.
        dry_run: make nothing.

    Raises:
        Misconfigured: something else has the name of a place, or a setting is missing.
        AccessDenied, StorageFailed, Unavailable: a place can't be made; the next run goes on from there.
    """
    for wanted in _all(settings, request):
        there = wanted.there()
        if not there and not dry_run:
            wanted.make()
            # A default of the server may have put it somewhere else.
            if not wanted.there():
                raise Misconfigured(f"{wanted.what} was made and is not there.", hint="See the server's log.")
        yield SetUpStep(wanted.what, made=not there)
    yield from _roots(settings, request)


def _all(settings: Settings, request: InitRequest) -> Iterator[Wanted]:
    yield _Repository(settings)
    if request.bucket:
        yield _Bucket(settings, request.bucket)
    api = MlflowApi(settings)
    yield _Experiment(api, request.proxied)
    if request.bucket:
        yield _Experiment(api, request.direct, f"s3://{request.bucket}/{request.direct}")


def _roots(settings: Settings, request: InitRequest) -> Iterator[SetUpStep]:
    """Yield the setting with which the deployer reads the direct experiment's models; the user makes it."""
    if not request.bucket:
        return
    allowed = settings.transfer.allowed_artifacts
    place = parse_place(f"s3://{request.bucket}/{request.direct}")
    if not allowed.allow(place):
        wanted = ",".join(map(str, (*allowed.roots, place)))
        what = f"leave to read what experiment {request.direct} logs"
        yield SetUpStep(what, made=False, to_set=f"{VARIABLE}={wanted}")


class _Repository:
    def __init__(self, settings: Settings) -> None:
        if settings.repository is None:
            raise Misconfigured(
                "TRITON_DEPLOY_REPOSITORY is not set.",
                hint="Set it to the folder that Triton is started with (--model-repository).",
            )
        self._path = settings.repository
        self.what = f"model repository {self._path}"

    def there(self) -> bool:
        with storage_errors(f"looking at {self._path}"):
            if self._path.exists() and not self._path.is_dir():
                raise Misconfigured(
                    f"{self._path} is no folder.", hint="Set TRITON_DEPLOY_REPOSITORY to a folder."
                )
            return self._path.is_dir() and self._path.stat().st_mode & ROOT_MODE == ROOT_MODE

    def make(self) -> None:
        with storage_errors(f"making {self._path}"):
            make_directory(self._path.absolute())
            self._path.chmod(self._path.stat().st_mode & 0o7777 | ROOT_MODE)


class _Bucket:
    def __init__(self, settings: Settings, bucket: str) -> None:
        place = _place_of_bucket(bucket)
        self._bucket = place.bucket
        self._store = S3Store(settings)
        self.what = f"bucket {bucket}"

    def there(self) -> bool:
        return self._store.has_bucket(self._bucket)

    def make(self) -> None:
        self._store.make_bucket(self._bucket)


class _Experiment:
    """An experiment with its artifacts behind MLflow's proxy, or at ``location``."""

    def __init__(self, api: MlflowApi, name: str, location: str = "") -> None:
        self._api = api
        self._name = name
        self._location = location
        where = f"at {location}" if location else "behind MLflow's proxy"
        self.what = f"experiment {name} {where}"

    def there(self) -> bool:
        try:
            found = self._get()
        except NotFound:
            return False
        if found.text("lifecycle_stage", "") == "deleted":
            raise Misconfigured(
                f"Experiment {self._name} was deleted in MLflow, and its name is still taken.",
                hint=f"Restore it (mlflow experiments restore --experiment-id {found.text('experiment_id')}), or choose another name.",
            )
        location = found.text("artifact_location")
        place = _place(location)
        if not self._fits(place):
            raise Misconfigured(
                f"{self.what[:1].upper()}{self.what[1:]} is wanted, and its artifacts are at {location}.",
                hint="An experiment keeps the location that it was made with: choose another name. If it is new, start MLflow with "
                "--serve-artifacts --artifacts-destination s3://….",
            )
        return True

    def make(self) -> None:
        body: dict[str, Any] = {"artifact_location": self._location} if self._location else {}
        try:
            self._api.send("POST", "mlflow/experiments/create", name=self._name, **body)
        except Misconfigured:
            # MLflow refuses the name when another process has just made the experiment.
            if not self.there():
                raise

    def _get(self) -> JsonAnswer:
        return self._api.get("mlflow/experiments/get-by-name", "experiment", experiment_name=self._name)

    def _fits(self, place: Place | None) -> bool:
        if not self._location:
            return isinstance(place, ProxyPlace)
        return place == parse_place(self._location)


def _place(location: str) -> Place | None:
    try:
        return parse_place(location)
    except InvalidInput:
        return None


def _place_of_bucket(bucket: str) -> S3Place:
    place = parse_place(f"s3://{bucket}")
    if not isinstance(place, S3Place) or place.key:
        raise InvalidInput(f"{bucket!r} is not a bucket's name.", hint="Use letters, digits, '.' or '-'.")
    return place
