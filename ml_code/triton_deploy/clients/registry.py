"""The MLflow registry, by its REST API: resolves an alias to a version and the places of its files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import (
    AliasNotFound,
    ArtifactRejected,
    DeployError,
    InvalidInput,
    Misconfigured,
    NotFound,
    Unavailable,
)
from ..errors.texts import excerpt
from ..rules.locations import (
    ForeignPlace,
    Location,
    LoggedModelRef,
    ProxyPlace,
    RunPlace,
    S3Place,
    VersionRef,
    is_run_id,
    parse,
    parse_place,
)
from ..rules.names import check_version
from ..rules.version_files import DIGEST_TAG
from ..settings import Settings
from .http.answers import JsonAnswer
from .mlflow_api import MlflowApi


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A model version in the registry.

    Attributes:
        version: its number.
        run_id: the run that made it, or empty.
        artifact_uris: places where its ``model.onnx`` may be, most likely first: the version's own
            artifacts, then the run's ``onnx`` directory. A place that only a deleted run knows is missing.
        expected_digest: the digest that training recorded, or empty.
    """

    version: int
    run_id: str
    artifact_uris: tuple[str, ...]
    expected_digest: str

    def __post_init__(self) -> None:
        """Raise InvalidInput for an impossible number: it becomes the name of a directory."""
        check_version(self.version)


class Registry(Protocol):
    """The port to a model registry, for deploys."""

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        """Return the version that an alias names now.

        Raises:
            AliasNotFound: the model has no such alias.
            NotFound: the registry has no such model.
            AccessDenied, Misconfigured, Unavailable: the registry refuses, is another program, or does not
                answer.
            InvalidInput: the registry names no valid place for the files.
        """


class MlflowRegistry:
    """An MLflow tracking server's registry.

    Args:
        settings: address, credentials and deadlines.
    """

    def __init__(self, settings: Settings) -> None:
        self._api = MlflowApi(settings)
        self._runs: dict[str, JsonAnswer] = {}

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        """See Registry.resolve."""
        return self._known(
            model, self._api.get("mlflow/registered-models/alias", "model_version", name=model, alias=alias)
        )

    def find(self, model: str, version: int) -> RegisteredVersion:
        """Return a version by its number; raises as ``resolve`` does, except AliasNotFound."""
        return self._known(
            model,
            self._api.get("mlflow/model-versions/get", "model_version", name=model, version=str(version)),
        )

    def run_place(self, run_id: str, path: str) -> str:
        """Return the place of a folder in a run's artifacts; raises as ``find`` does."""
        root = self._run(run_id).part("info").text("artifact_uri")
        try:
            return str(parse_place(root).child(path))
        except InvalidInput as error:
            raise self._no_place(error, f"for run {run_id}") from error

    def run_tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run; raises as ``find`` does."""
        run = self._run(run_id)
        return tags_of(run.part("data")) if run.value.get("data") else {}

    def _run(self, run_id: str) -> JsonAnswer:
        if run_id not in self._runs:
            self._runs[run_id] = self._api.get("mlflow/runs/get", "run", run_id=run_id)
        return self._runs[run_id]

    def _known(self, model: str, found: JsonAnswer) -> RegisteredVersion:
        version = _version(found)
        status = found.text("status", "READY")
        if status != "READY":
            raise Unavailable(
                f"Version {version} of {model} is {excerpt(status, 60)} in MLflow.",
                hint="Wait until its registration is complete, then deploy again.",
            )
        run_id = found.text("run_id", "")
        if run_id and not is_run_id(run_id):
            raise found.strange("run_id is no id of a run")
        places = self._known_places(self._download_place(model, version), run_id)
        tags = tags_of(found)
        return RegisteredVersion(
            version=version,
            run_id=run_id,
            artifact_uris=tuple(dict.fromkeys(places)),
            expected_digest=tags.get(DIGEST_TAG, ""),
        )

    def _known_places(self, location: Location, run_id: str) -> list[str]:
        """Return the places where a version's files may be.

        A deleted run or logged model adds no place and raises no error. The run's folder is a second
        choice: another lasting error of it is raised only if the version has no other place.
        """
        places: list[str] = []
        with contextlib.suppress(NotFound):
            places.append(self._real_place(location))
        try:
            if run_id:
                places.append(self.run_place(run_id, "onnx"))
        except NotFound:
            pass
        except DeployError as error:
            if error.retryable or not places:
                raise
        return places

    def _real_place(self, location: Location, hops: int = 3) -> str:
        """Follow MLflow's own schemes (runs:, models:) to the place of the files."""
        match location:
            case RunPlace(run_id, path):
                return self.run_place(run_id, path)
            case LoggedModelRef(model_id) if hops:
                logged = self._api.get(f"mlflow/logged-models/{model_id}", "model")
                place = self._parsed(logged.part("info").text("artifact_uri"), f"for logged model {model_id}")
                return self._real_place(place, hops - 1)
            case VersionRef(model, version) if hops:
                return self._real_place(self._download_place(model, version), hops - 1)
            case S3Place() | ProxyPlace() | ForeignPlace():
                return str(location)
        raise Misconfigured(
            f"{self._api.server} says that the files are at {location}, which leads to no place.",
            hint="Register the model version again, from a run or a logged model.",
        )

    def _download_place(self, model: str, version: int) -> Location:
        endpoint = "mlflow/model-versions/get-download-uri"
        text = self._api.ask(endpoint, name=model, version=str(version)).text("artifact_uri")
        return self._parsed(text, f"for version {version} of {model}")

    def _parsed(self, text: str, asked: str) -> Location:
        try:
            return parse(text)
        except InvalidInput as error:
            raise self._no_place(error, asked) from error

    def _no_place(self, error: InvalidInput, asked: str) -> InvalidInput:
        return InvalidInput(
            f"{self._api.server} was asked {asked} where the files are, and answers no place. {error.message}",
            hint=error.hint,
        )


def _version(found: JsonAnswer) -> int:
    number = found.value.get("version")
    if isinstance(number, bool) or not isinstance(number, str | int):
        raise found.strange(f"version is {'missing' if number is None else 'no number'}")
    try:
        # The number becomes the name of a directory: refuse here a number that Triton can't take.
        return check_version(number)
    except InvalidInput as error:
        raise found.strange(error.message.rstrip(".")) from error


def tags_of(found: JsonAnswer) -> dict[str, str]:
    """Return the tags in MLflow's JSON of a version or a run; a tag without a value is empty text."""
    return {tag.text("key"): tag.text("value", "") for tag in found.items("tags")}


def wait_for_alias(
    registry: Registry,
    model: str,
    alias: str,
    settings: Settings,
    report: Callable[[str], None],
) -> RegisteredVersion:
    """Resolve an alias, and wait for an alias that is not set yet.

    Args:
        registry: the registry.
        model: model name.
        alias: alias name.
        settings: ``alias_wait_s`` and ``alias_poll_s``.
        report: called with a sentence for people before each pause.

    Raises:
        AliasNotFound: the alias was not set in time.
        DeployError: any other refusal of the registry, at once.
    """
    waited_s = 0.0
    while True:
        asked = time.monotonic()
        try:
            return registry.resolve(model, alias)
        except AliasNotFound as error:
            waited_s += time.monotonic() - asked
            left_s = settings.mlflow.alias_wait_s - waited_s
            if left_s <= 0:
                waited = (
                    f" Waited {settings.mlflow.alias_wait_s:g} s for it."
                    if settings.mlflow.alias_wait_s
                    else ""
                )
                raise AliasNotFound(error.message + waited, hint=error.hint) from error
        pause_s = min(max(settings.mlflow.alias_poll_s, 0.05), left_s)
        report(
            f"Alias {alias} of {model} is not set yet; looking again in {pause_s:.0f} s, for {left_s:.0f} s more."
        )
        time.sleep(pause_s)
        waited_s += pause_s


def no_onnx(model: str, version: int, places: tuple[str, ...]) -> DeployError:
    """Return the error for a version without a ``model.onnx`` in its places, or without any place."""
    if not places:
        return NotFound(
            f"Where the files of version {version} of {model} are is not known: its run, or the logged model that it was registered from, "
            "is gone from MLflow.",
            hint="Log the model again, and register a new version.",
        )
    return ArtifactRejected(
        f"Version {version} of {model} has no model.onnx in {' or '.join(places)}.",
        hint="Log the model with mlflow.onnx.log_model, or log its ONNX file to the run as onnx/model.onnx.",
    )
