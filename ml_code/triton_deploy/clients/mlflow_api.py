"""MLflow's REST API: one way to ask it, and a ``DeployError`` for each refusal.

The ``mlflow`` package would cost every task seconds of import, so the few calls are plain HTTP. Source:
MLflow 3.17's REST API reference, and the answers of the real server in tests/integration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import AccessDenied, AliasNotFound, DeployError, Misconfigured, NotFound, Unavailable
from ..settings import Settings
from . import http
from .http import tls
from .http.answers import JsonAnswer, answer_of, error_code, what_it_is
from .listing import Listing

if TYPE_CHECKING:
    import requests


class MlflowApi:
    """An MLflow server.

    Args:
        settings: address, credentials and the longest wait for an answer.

    Attributes:
        base: its address, without a slash at the end.
        server: name of the server in messages.

    Raises:
        Misconfigured: no server is set, or a variable for its certificate can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.base = settings.mlflow.tracking_url
        self.server = f"MLflow at {http.shown(self.base)}"
        self._settings = settings
        self._session = http.new_session(pool_size=1, trust=tls.trust("mlflow"))

    def ask(self, endpoint: str, **params: str) -> JsonAnswer:
        """Send a GET; return the answer.

        Args:
            endpoint: path below ``/api/2.0/``.
            params: query parameters.

        Raises:
            AliasNotFound, NotFound: MLflow knows no such alias or object.
            AccessDenied, Misconfigured, Unavailable: the server refuses, is no MLflow 3, or does not answer.
        """
        response = self.response("GET", f"/api/2.0/{endpoint}", params=params)
        if response.status_code != 200:
            raise self.refusal(endpoint, response, params)
        return self._read(endpoint, response, params)

    def get(self, endpoint: str, part: str, **params: str) -> JsonAnswer:
        """Send a GET; return one part of the answer, which is an object; see ``ask``."""
        return self.ask(endpoint, **params).part(part)

    def every(self, endpoint: str, part: str, **params: str) -> list[JsonAnswer]:
        """Return the items of all pages of a list; raises as ``ask`` does."""
        listing = Listing(endpoint, self.server, self._settings.mlflow.timeout_s)
        items: list[JsonAnswer] = []
        while True:
            response = self.response(
                "GET", f"/api/2.0/{endpoint}", params=params, timeout_s=listing.next_timeout_s()
            )
            if response.status_code != 200:
                raise self.refusal(endpoint, response, params)
            page = self._read(endpoint, response, params)
            found = page.items(part)
            listing.page(response.content, len(found))
            items += found
            token = page.text("next_page_token", "")
            if not token:
                return items
            params = {**params, "page_token": listing.token(token)}

    def send(self, method: str, endpoint: str, **body: Any) -> JsonAnswer:
        """Send a request that changes something; return its answer, maybe empty. Raises as ``ask`` does."""
        response = self.response(method, f"/api/2.0/{endpoint}", body=body)
        if not 200 <= response.status_code < 300:
            raise self.refusal(endpoint, response, body)
        if not response.content.strip():
            return JsonAnswer({}, self.server, endpoint, "")
        return self._read(endpoint, response, body)

    def response(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> requests.Response:
        """Return the answer, whatever its status; raises as ``http.send`` does."""
        headers, auth = login(self._settings)
        return http.send(
            self._session,
            method,
            f"{self.base}{path}",
            params=params,
            body=body,
            headers=headers,
            auth=auth,
            timeout_s=self._settings.mlflow.timeout_s if timeout_s is None else timeout_s,
            server=self.server,
            hint="Check that it runs and that MLFLOW_TRACKING_URI is right, then deploy again.",
        )

    def _read(self, endpoint: str, response: requests.Response, params: Mapping[str, Any]) -> JsonAnswer:
        answer = answer_of(response, self.server, endpoint, "MLFLOW_TRACKING_URI")
        if "error_code" in answer.value:
            raise self.refusal(endpoint, response, params)
        return answer

    def refusal(
        self, endpoint: str, response: requests.Response, params: Mapping[str, Any] | None = None
    ) -> DeployError:
        """Return the error for an answer that is a refusal."""
        status, said = response.status_code, http.explanation(response)
        return (
            _not_there(self.server, error_code(response), said, params or {})
            or _denied(self.server, status, said, self._settings)
            or _not_mlflow(self.server, endpoint, response)
            or _failed(self.server, endpoint, status, said)
        )


def login(settings: Settings) -> tuple[Mapping[str, str], tuple[str, str] | None]:
    """Return the request headers, and the user and password, that MLflow's credentials make up."""
    headers = {"Authorization": f"Bearer {settings.mlflow.token}"} if settings.mlflow.token else {}
    return headers, (settings.mlflow.username, settings.mlflow.password) if settings.mlflow.username else None


def credentials_hint(settings: Settings, status: int) -> str:
    """Return the hint for credentials that MLflow refuses: missing, wrong, or without permission.

    Args:
        settings: the credentials.
        status: 401, or 403 for a known user.
    """
    if settings.mlflow.username:
        used = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif settings.mlflow.token:
        used = "MLFLOW_TRACKING_TOKEN"
    else:
        return "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    are = "are" if " and " in used else "is"
    if status == 403:
        return f"{used} {are} set, and not of a user who may do this: have MLflow's administrator allow it, or set another."
    return f"{used} {are} set and wrong: correct {'them' if are == 'are' else 'it'}."


def _not_there(server: str, code: str, said: str, params: Mapping[str, Any]) -> DeployError | None:
    if code == "INVALID_PARAMETER_VALUE" and "alias" in said and "not found" in said and "name" in params:
        return AliasNotFound(
            f"{server}, model {params['name']}: {said}.",
            hint="Set the alias on the version to deploy, in MLflow's UI or with set_registered_model_alias; "
            "TRITON_DEPLOY_ALIAS_WAIT_S says how long a deploy waits for it.",
        )
    if code == "RESOURCE_DOES_NOT_EXIST":
        return NotFound(
            f"{server}: {said}.",
            hint="Check the model's name, and that MLFLOW_TRACKING_URI is the right server.",
        )
    return None


def _denied(server: str, status: int, said: str, settings: Settings) -> DeployError | None:
    if status == 403 and "Host header" in said:
        return Misconfigured(
            f"{server} refuses this host name.",
            hint="Start it with --allowed-hosts that include the name and port in MLFLOW_TRACKING_URI.",
        )
    if status in (401, 403):
        return AccessDenied(f"{server} denies access ({status}).", hint=credentials_hint(settings, status))
    return None


def _not_mlflow(server: str, endpoint: str, response: requests.Response) -> DeployError | None:
    status = response.status_code
    if status == 404 or status < 400:
        return Misconfigured(
            f"{server} does not answer {endpoint} as an MLflow 3 server does ({status}).",
            hint="Check MLFLOW_TRACKING_URI; a server older than MLflow 3 does not know logged models.",
        )
    what = what_it_is(response)
    if status < 500 and status != 429 and what and not what.startswith("it is no JSON"):
        return Misconfigured(
            f"{server} does not answer {endpoint} as MLflow does ({status}): {what}. It says: {http.explanation(response)}.",
            hint="Check MLFLOW_TRACKING_URI: that is the address of another program.",
        )
    return None


def _failed(server: str, endpoint: str, status: int, said: str) -> DeployError:
    if status < 500 and status not in (408, 429):
        return Misconfigured(
            f"{server} refuses {endpoint} ({status}): {said}.",
            hint="Check the model's name and the server's log.",
        )
    return Unavailable(
        f"{server} failed on {endpoint} ({status}): {said}.",
        hint="Look at the MLflow server's log, then deploy again.",
    )
