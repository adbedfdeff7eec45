"""Prometheus and Alertmanager, asked over their HTTP API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from ..errors import AccessDenied, Misconfigured, Unavailable
from ..http import get, new_session

if TYPE_CHECKING:
    import requests


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
        data = self._api.get("/api/v1/query", {"query": query})
        try:
            result = data["data"]["result"]
            numbers = [result] if data["data"]["resultType"] == "scalar" else [s["value"] for s in result]
            values = [float(number[1]) for number in numbers]
        except (LookupError, TypeError, ValueError) as error:
            raise self._api.strange(error) from error
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
        alerts = self._api.get("/api/v2/alerts", active)
        try:
            return {
                alert["labels"]["alertname"]: alert["labels"].get("model", "")
                for alert in alerts
                if datetime.fromisoformat(alert["startsAt"]) > since
            }
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._api.strange(error) from error


class _Api:
    def __init__(self, name: str, variable: str, url: str, timeout_s: float) -> None:
        self._name, self._variable = name, variable
        parts = urlsplit(url.rstrip("/"))
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._timeout_s = timeout_s
        self._session = new_session(pool_size=1)

    def get(self, path: str, params: Mapping[str, str]) -> Any:
        """Return the JSON of an answer."""
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
                f"{self._name} refuses: {response.status_code}.",
                hint=f"Put user and password into {self._variable}: http://user:password@host:port.",
            )
        if response.status_code in (400, 404, 405, 422):
            raise Misconfigured(
                f"{self._name} does not take the question: {_said(response)}.",
                hint=f"Check the queries of the bake and {self._variable}.",
            )
        if not response.ok:
            raise Unavailable(
                f"{self._name} answers {response.status_code}: {_said(response)}.", hint="Try again later."
            )
        try:
            return response.json()
        except ValueError as error:
            raise self.strange(error) from error

    def strange(self, error: Exception) -> Misconfigured:
        """Return the error for an answer that is not of this API."""
        return Misconfigured(
            f"What answers for {self._name} gives something else: {type(error).__name__}: {error}.",
            hint=f"Check {self._variable}.",
        )


def _said(response: requests.Response) -> str:
    try:
        return str(response.json()["error"])[:300].rstrip(".")
    except (ValueError, LookupError, TypeError):
        return response.text.strip()[:300].rstrip(".") or str(response.status_code)
