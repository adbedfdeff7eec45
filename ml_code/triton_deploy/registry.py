"""The MLflow registry, by its REST API: what an alias means right now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import AliasNotFound, ArtifactRejected, DeployError, Misconfigured, NotFound, Unavailable
from .locations import (
    ForeignPlace,
    Location,
    LoggedModelRef,
    ProxyPlace,
    RunPlace,
    S3Place,
    VersionRef,
    parse,
    parse_place,
)
from .mlflow_api import MlflowApi
from .names import check_version
from .settings import Settings

DIGEST_TAG = "triton_deploy.digest"
"""Model version tag in which training records the digest of what it logged."""


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A model version as the registry knows it.

    Attributes:
        version: its number.
        run_id: the run that made it, or empty.
        artifact_uris: places where its ``model.onnx`` may be, most likely first: the version's own artifacts, then the
            run's ``onnx`` directory. Those of a run that is gone are left out where only the run knows them.
        expected_digest: what training recorded, or empty.
    """

    version: int
    run_id: str
    artifact_uris: tuple[str, ...]
    expected_digest: str

    def __post_init__(self) -> None:
        """Raise InvalidInput for a number that no version has, whatever registry gave it: it becomes the name of a directory."""
        check_version(self.version)


class Registry(Protocol):
    """What a deploy asks of a model registry."""

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        """Return the version that an alias names now.

        Raises:
            AliasNotFound: the model has no such alias.
            NotFound: there is no such model.
            AccessDenied, Misconfigured, Unavailable: the registry refuses, is not one, or does not answer.
            InvalidInput: where it says that the files are is no place, or the version's number is none.
        """


class MlflowRegistry:
    """An MLflow tracking server's registry.

    Args:
        settings: address, credentials and deadlines.
    """

    def __init__(self, settings: Settings) -> None:
        self._api = MlflowApi(settings)
        self._run_roots: dict[str, str] = {}

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        """See Registry.resolve."""
        return self._known(
            model, self._api.get("mlflow/registered-models/alias", "model_version", name=model, alias=alias)
        )

    def find(self, model: str, version: int) -> RegisteredVersion:
        """Return a version by its number; the errors are those of ``resolve``, without AliasNotFound."""
        return self._known(
            model,
            self._api.get("mlflow/model-versions/get", "model_version", name=model, version=str(version)),
        )

    def run_place(self, run_id: str, path: str) -> str:
        """Return where a folder of a run's artifacts is; same errors."""
        if run_id not in self._run_roots:
            info = self._api.get("mlflow/runs/get", "run", run_id=run_id)["info"]
            self._run_roots[run_id] = info["artifact_uri"]
        return str(parse_place(self._run_roots[run_id]).child(path))

    def _known(self, model: str, found: Mapping[str, Any]) -> RegisteredVersion:
        version = check_version(found["version"])
        if found.get("status", "READY") != "READY":
            raise Unavailable(
                f"Version {version} of {model} is {found['status']} in MLflow.",
                hint="Wait until its registration is complete, then deploy again.",
            )
        run_id = found.get("run_id", "")
        places = self._known_places(parse(self._download_uri(model, version)), run_id)
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        return RegisteredVersion(
            version=version,
            run_id=run_id,
            artifact_uris=tuple(dict.fromkeys(places)),
            expected_digest=tags.get(DIGEST_TAG, ""),
        )

    def _known_places(self, location: Location, run_id: str) -> list[str]:
        """Return where a version's files may be; a run or logged model that is gone names no place, and fails none that is known."""
        places = []
        with contextlib.suppress(NotFound):
            places.append(self._real_place(location))
        with contextlib.suppress(NotFound):
            if run_id:
                places.append(self.run_place(run_id, "onnx"))
        return places

    def _real_place(self, location: Location, hops: int = 3) -> str:
        """Follow MLflow's own schemes to the place where files are."""
        match location:
            case RunPlace(run_id, path):
                return self.run_place(run_id, path)
            case LoggedModelRef(model_id) if hops:
                info = self._api.get(f"mlflow/logged-models/{model_id}", "model")["info"]
                return self._real_place(parse(info["artifact_uri"]), hops - 1)
            case VersionRef(model, version) if hops:
                return self._real_place(parse(self._download_uri(model, version)), hops - 1)
            case S3Place() | ProxyPlace() | ForeignPlace():
                return str(location)
        raise Misconfigured(
            f"MLflow at {self._api.base} says that the files are at {location}, which leads to no place.",
            hint="Register the model version again, from a run or a logged model.",
        )

    def _download_uri(self, model: str, version: int) -> str:
        endpoint = "mlflow/model-versions/get-download-uri"
        return str(self._api.get(endpoint, "artifact_uri", name=model, version=str(version)))


def wait_for_alias(
    registry: Registry,
    model: str,
    alias: str,
    settings: Settings,
    report: Callable[[str], None],
) -> RegisteredVersion:
    """Resolve an alias, waiting while it is not set yet, and only then.

    Args:
        registry: the registry.
        model: model name.
        alias: alias name.
        settings: ``alias_wait_s`` and ``alias_poll_s``.
        report: told what is being waited for.

    Raises:
        AliasNotFound: it was not set in time.
        DeployError: any other refusal of the registry, at once.
    """
    waited_s = 0.0
    while True:
        asked = time.monotonic()
        try:
            return registry.resolve(model, alias)
        except AliasNotFound as error:
            waited_s += time.monotonic() - asked
            left_s = settings.alias_wait_s - waited_s
            if left_s <= 0:
                waited = f" Waited {settings.alias_wait_s:g} s for it." if settings.alias_wait_s else ""
                raise AliasNotFound(error.message + waited, hint=error.hint) from error
        pause_s = min(max(settings.alias_poll_s, 0.05), left_s)
        report(
            f"Alias {alias} of {model} is not set yet; looking again in {pause_s:.0f} s, for {left_s:.0f} s more."
        )
        time.sleep(pause_s)
        waited_s += pause_s


def no_onnx(model: str, version: int, places: tuple[str, ...]) -> DeployError:
    """Return the error for a version that has no ``model.onnx`` in any place, or whose place nobody knows."""
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
