"""The MLflow registry, by its REST API: what an alias means right now.

The ``mlflow`` package costs seconds of import in every task; the few calls that a deploy needs are plain HTTP. Source: MLflow
3.17's REST API reference, and what the server answered in tests/integration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import requests

from . import http
from .errors import AccessDenied, AliasNotFound, ArtifactRejected, Misconfigured, NotFound, Unavailable
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
            run's ``onnx`` directory.
        expected_digest: what training recorded, or empty.
    """

    version: int
    run_id: str
    artifact_uris: tuple[str, ...]
    expected_digest: str


class Registry(Protocol):
    """What a deploy asks of a model registry."""

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        """Return the version that an alias names now.

        Raises:
            AliasNotFound: the model has no such alias.
            NotFound: there is no such model.
            AccessDenied, Misconfigured, Unavailable: the registry refuses, is not one, or does not answer.
        """


class MlflowRegistry:
    """An MLflow tracking server's registry.

    Args:
        settings: address, credentials and deadlines.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = http.new_session(pool_size=1)

    def resolve(self, model: str, alias: str) -> RegisteredVersion:
        """See Registry.resolve."""
        found = self._get("mlflow/registered-models/alias", "model_version", name=model, alias=alias)
        version = str(found["version"])
        if found.get("status", "READY") != "READY":
            raise Unavailable(
                f"Version {version} of {model} is {found['status']} in MLflow.",
                hint="Wait until its registration is complete, then deploy again.",
            )
        run_id = found.get("run_id", "")
        uri = self._get("mlflow/model-versions/get-download-uri", "artifact_uri", name=model, version=version)
        places = [self._real_place(uri)]
        if run_id:
            places.append(self._run_place(run_id, "onnx"))
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        return RegisteredVersion(
            version=int(version),
            run_id=run_id,
            artifact_uris=tuple(dict.fromkeys(places)),
            expected_digest=tags.get(DIGEST_TAG, ""),
        )

    def _real_place(self, uri: str) -> str:
        """Follow MLflow's own schemes to the place where files are."""
        if uri.startswith("runs:/"):
            run_id, _, path = uri.removeprefix("runs:/").lstrip("/").partition("/")
            return self._run_place(run_id, path)
        return uri

    def _run_place(self, run_id: str, path: str) -> str:
        info = self._get("mlflow/runs/get", "run", run_id=run_id)["info"]
        return f"{info['artifact_uri'].rstrip('/')}/{path}".rstrip("/")

    def _get(self, endpoint: str, part: str, **params: str) -> Any:
        """Ask MLflow; return one part of the answer."""
        settings = self._settings
        base = settings.tracking_url
        response = http.get(
            self._session,
            f"{base}/api/2.0/{endpoint}",
            params=params,
            headers={"Authorization": f"Bearer {settings.mlflow_token}"} if settings.mlflow_token else None,
            auth=(settings.mlflow_username, settings.mlflow_password) if settings.mlflow_username else None,
            timeout_s=settings.mlflow_timeout_s,
            server=f"MLflow at {base}",
            hint="Check that it runs and that MLFLOW_TRACKING_URI is right, then deploy again.",
        )
        try:
            body = response.json()
        except ValueError:
            body = None
        body = body if isinstance(body, dict) else {}
        if response.ok and part in body:
            return body[part]
        raise _refusal(base, endpoint, params, response, body.get("error_code", ""))


def _refusal(
    base: str, endpoint: str, params: Mapping[str, str], response: requests.Response, code: str
) -> Exception:
    status, said = response.status_code, http.explanation(response)
    if code == "INVALID_PARAMETER_VALUE" and "alias" in said and "not found" in said:
        return AliasNotFound(
            f"MLflow at {base}, model {params['name']}: {said}.",
            hint="Set the alias on the version to deploy, in MLflow's UI or with set_registered_model_alias; "
            "TRITON_DEPLOY_ALIAS_WAIT_S says how long a deploy waits for it.",
        )
    if code == "RESOURCE_DOES_NOT_EXIST":
        return NotFound(
            f"MLflow at {base}: {said}.",
            hint="Check the model's name, and that MLFLOW_TRACKING_URI is the right server.",
        )
    if status == 403 and "Host header" in said:
        return Misconfigured(
            f"MLflow at {base} refuses this host name.",
            hint="Start it with --allowed-hosts that include the name and port in MLFLOW_TRACKING_URI.",
        )
    if status in (401, 403):
        return AccessDenied(
            f"MLflow at {base} denies access ({status}).",
            hint="Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        )
    if status == 404 or status < 400:
        return Misconfigured(
            f"{base} does not answer {endpoint} as an MLflow 3 server does ({status}).",
            hint="Check MLFLOW_TRACKING_URI; a server older than MLflow 3 does not know logged models.",
        )
    if status < 500:
        return Misconfigured(
            f"MLflow at {base} refuses {endpoint} ({status}): {said}.",
            hint="Check the model's name and the server's log.",
        )
    return Unavailable(
        f"MLflow at {base} failed on {endpoint} ({status}): {said}.",
        hint="Look at the MLflow server's log, then deploy again.",
    )


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


def no_onnx(model: str, version: int, places: tuple[str, ...]) -> ArtifactRejected:
    """Return the error for a version that has no ``model.onnx`` in any place."""
    return ArtifactRejected(
        f"Version {version} of {model} has no model.onnx in {' or '.join(places)}.",
        hint="Log the model with mlflow.onnx.log_model, or log its ONNX file to the run as onnx/model.onnx.",
    )
