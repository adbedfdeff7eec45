"""MLflow's REST API: one way to ask it, and its refusals in our own words.

The ``mlflow`` package costs seconds of import in every task; the few calls that are needed are plain HTTP. Source: MLflow 3.17's
REST API reference, and what the server answered in tests/integration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import http
from .errors import AccessDenied, AliasNotFound, DeployError, Misconfigured, NotFound, Unavailable
from .settings import Settings

if TYPE_CHECKING:
    import requests


class MlflowApi:
    """An MLflow server.

    Args:
        settings: address, credentials and the longest wait for an answer.

    Raises:
        Misconfigured: no server is set.
    """

    def __init__(self, settings: Settings) -> None:
        self.base = settings.tracking_url
        self._settings = settings
        self._session = http.new_session(pool_size=1)

    def get(self, endpoint: str, part: str, **params: str) -> Any:
        """Ask; return one part of the answer.

        Args:
            endpoint: path below ``/api/2.0/``.
            part: the field that is wanted.
            params: query parameters.

        Raises:
            AliasNotFound, NotFound: MLflow says so.
            AccessDenied, Misconfigured, Unavailable: the server refuses, is no MLflow 3, or does not answer.
        """
        response = self.response("GET", f"/api/2.0/{endpoint}", params=params)
        body = _json(response)
        if response.ok and part in body:
            return body[part]
        raise self.refusal(endpoint, response, params)

    def every(self, endpoint: str, part: str, **params: str) -> list[Any]:
        """Ask for all pages of a list; same errors as ``get``. MLflow leaves an empty list out of its answer."""
        items: list[Any] = []
        while True:
            response = self.response("GET", f"/api/2.0/{endpoint}", params=params)
            body = _json(response)
            if not response.ok or not response.headers.get("Content-Type", "").startswith("application/json"):
                raise self.refusal(endpoint, response, params)
            items += body.get(part, [])
            if not body.get("next_page_token"):
                return items
            params = {**params, "page_token": body["next_page_token"]}

    def send(self, method: str, endpoint: str, **body: Any) -> Mapping[str, Any]:
        """Change something; return the answer. Same errors as ``get``."""
        response = self.response(method, f"/api/2.0/{endpoint}", body=body)
        if response.ok:
            return _json(response)
        raise self.refusal(endpoint, response, body)

    def response(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        """Return an answer whatever its status; raises Unavailable when there is none."""
        settings = self._settings
        return http.send(
            self._session,
            method,
            f"{self.base}{path}",
            params=params,
            body=body,
            headers={"Authorization": f"Bearer {settings.mlflow_token}"} if settings.mlflow_token else None,
            auth=(settings.mlflow_username, settings.mlflow_password) if settings.mlflow_username else None,
            timeout_s=settings.mlflow_timeout_s,
            server=f"MLflow at {self.base}",
            hint="Check that it runs and that MLFLOW_TRACKING_URI is right, then deploy again.",
        )

    def refusal(
        self, endpoint: str, response: requests.Response, params: Mapping[str, Any] | None = None
    ) -> DeployError:
        """Return the error for an answer that is not what was asked for."""
        return _refusal(
            self.base, endpoint, params or {}, response, str(_json(response).get("error_code", ""))
        )


def _json(response: requests.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _refusal(
    base: str, endpoint: str, params: Mapping[str, Any], response: requests.Response, code: str
) -> DeployError:
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
