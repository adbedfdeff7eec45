"""Prometheus and Alertmanager, asked over their HTTP API."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import AccessDenied, Misconfigured, Unavailable
from ..http import explanation, get, new_session, shown
from ..http_answers import beginning, parsed, strange
from ..web_address import credentials

if TYPE_CHECKING:
    import requests

T = TypeVar("T")


class Metrics(Protocol):
    """Who answers the queries of a bake."""

    def value(self, query: str) -> float | None:
        """Return the one number that a query gives now, or None when it gives nothing.

        Raises:
            Misconfigured: it is not a query, or gives several numbers.
            AccessDenied, Unavailable: it can't be asked.
        """


class Alerts(Protocol):
    """Who knows which alerts fire."""

    def firing(self, since: datetime) -> Mapping[str, str]:
        """Return the alerts that began to fire after a moment and are not silenced: their model (or empty), by name.

        Raises:
            Misconfigured, AccessDenied, Unavailable: it can't be asked.
        """


class Prometheus:
    """A Prometheus server, or what speaks its API (Thanos, Mimir, VictoriaMetrics).

    Args:
        url: its base URL; user and password may be in it.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._api = _Api("Prometheus", "TRITON_DEPLOY_PROMETHEUS_URL", url, timeout_s)

    def value(self, query: str) -> float | None:
        """See Metrics.value."""
        values = self._api.ask("/api/v1/query", {"query": query}, _numbers)
        if len(values) > 1:
            raise Misconfigured(
                f"The query {query!r} gives {len(values)} numbers where one is needed.",
                hint="Sum or average them in the query.",
            )
        # Nothing divided by nothing is nothing.
        return values[0] if values and math.isfinite(values[0]) else None


class Alertmanager:
    """An Alertmanager.

    Args:
        url: its base URL; user and password may be in it.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._api = _Api("Alertmanager", "TRITON_DEPLOY_ALERTMANAGER_URL", url, timeout_s)

    def firing(self, since: datetime) -> Mapping[str, str]:
        """See Alerts.firing."""
        active = {"active": "true", "silenced": "false", "inhibited": "false"}
        return self._api.ask("/api/v2/alerts", active, lambda alerts: _begun(alerts, since))


class _Api:
    def __init__(self, name: str, variable: str, url: str, timeout_s: float) -> None:
        self._variable = variable
        self._url, user, password = credentials(url.rstrip("/"))
        self._auth = (user, password) if user else None
        self._name = f"{name} at {shown(self._url)}"
        self._timeout_s = timeout_s
        self._session = new_session(pool_size=1)

    def ask(self, path: str, params: Mapping[str, str], read: Callable[[Any], T]) -> T:
        """Return what ``read`` makes of the JSON of an answer."""
        response = self._got(path, params)
        try:
            return read(parsed(response, self._name, path, self._variable))
        except (LookupError, TypeError, ValueError, AttributeError):
            why = "something in it is missing, or of another kind"
            raise strange(self._name, path, beginning(response), why, self._variable) from None

    def _got(self, path: str, params: Mapping[str, str]) -> requests.Response:
        response = get(
            self._session,
            self._url + path,
            timeout_s=self._timeout_s,
            server=self._name,
            hint=f"Check {self._variable} and that it runs.",
            params=params,
            auth=self._auth,
        )
        if response.status_code in (401, 403):
            raise AccessDenied(
                f"{self._name} denies access ({response.status_code}).", hint=self._credentials_hint()
            )
        if response.status_code in (400, 404, 405, 422):
            raise Misconfigured(
                f"{self._name} does not take the question ({response.status_code}): {explanation(response)}.",
                hint=f"Check the queries of the bake and {self._variable}.",
            )
        if response.status_code != 200:
            raise Unavailable(
                f"{self._name} answers {response.status_code}: {explanation(response)}.",
                hint="Try again later.",
            )
        return response

    def _credentials_hint(self) -> str:
        if self._auth:
            return f"User and password in {self._variable} are wrong, or may not read: correct them."
        return f"Put user and password into {self._variable}: http://user:password@host:port."


def _numbers(answer: Any) -> list[float]:
    """Return the numbers in an answer of Prometheus; raises LookupError, TypeError or ValueError when it is none."""
    result = answer["data"]["result"]
    numbers = [result] if answer["data"]["resultType"] == "scalar" else [series["value"] for series in result]
    return [float(number[1]) for number in numbers]


def _begun(alerts: Any, since: datetime) -> dict[str, str]:
    """Return the alerts in an answer of Alertmanager that began after a moment, with their model; raises as ``_numbers`` does."""
    return {
        str(alert["labels"]["alertname"]): str(alert["labels"].get("model", ""))
        for alert in alerts
        if datetime.fromisoformat(alert["startsAt"]) > since
    }
