"""Clients of the HTTP APIs of Prometheus and Alertmanager.

Four cases stay apart: a server that is down raises ``Unavailable``, a slow server its subclass
``SilentServer``, a query without data returns ``None``, and a wrong set-up raises ``Misconfigured`` or
``AccessDenied``. All but the last may pass by themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..errors import AccessDenied, DeployError, Misconfigured, Unavailable
from ..errors.texts import excerpt
from ..rules.web_address import credentials
from .http import explanation, new_session, send, shown
from .http.answers import beginning, parsed, strange

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

MAY_PASS = (408, 425, 429)
"""Statuses of refusals that may pass: they say nothing against the address."""


class Firing(NamedTuple):
    """A firing alert: its name, and the model in its labels, or empty."""

    name: str
    model: str = ""


class Metrics(Protocol):
    """The port to a server of metrics, for the queries of a bake."""

    def value(self, query: str) -> float | None:
        """Return the one number that a query gives now, or None for a query without data.

        Raises:
            Misconfigured: the query is invalid, or gives several numbers.
            AccessDenied, Unavailable: the server refuses or does not answer.
        """


class Alerts(Protocol):
    """The port to a server of alerts."""

    def firing(self, since: datetime) -> Set[Firing]:
        """Return the alerts that began to fire after ``since`` and are not silenced.

        If one cause hits several models, each model has its own alert.

        Raises:
            Misconfigured, AccessDenied, Unavailable: the server refuses or does not answer.
        """


class Prometheus:
    """A Prometheus server, or another server with its API (Thanos, Mimir, VictoriaMetrics).

    Args:
        url: its base URL, which may hold user and password.
        timeout_s: longest wait for a whole answer, seconds.
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
        # 0/0 is NaN in PromQL: treat it as no data.
        return values[0] if values and math.isfinite(values[0]) else None

    def scrape_intervals_s(self) -> Mapping[str, float]:
        """Return each job's longest scrape interval, seconds. Raises as ``value`` does.

        Some servers with Prometheus' API lack this endpoint, which raises Misconfigured.
        """
        return self._api.ask("/api/v1/targets", {"state": "active"}, _intervals_s)

    def jobs(self, names: Sequence[str]) -> Set[str]:
        """Return the jobs that have a series with one of the names. Raises as ``value`` does."""
        match = f'{{__name__=~"{"|".join(names)}"}}'
        return self._api.ask(
            "/api/v1/label/job/values", {"match[]": match}, lambda answer: {*map(str, answer["data"])}
        )

    def alert_names(self) -> Set[str]:
        """Return the names of the loaded alerting rules. Raises as ``scrape_intervals_s`` does."""
        return self._api.ask("/api/v1/rules", {"type": "alert"}, _alert_names)


class Alertmanager:
    """An Alertmanager.

    Args:
        url: its base URL, which may hold user and password.
        timeout_s: longest wait for a whole answer, seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._api = _Api("Alertmanager", "TRITON_DEPLOY_ALERTMANAGER_URL", url, timeout_s)

    def firing(self, since: datetime) -> Set[Firing]:
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
        """Return the result of ``read`` for the JSON of an answer."""
        response = self._got(path, params)
        try:
            return read(parsed(response, self._name, path, self._variable))
        except (LookupError, TypeError, ValueError, AttributeError):
            why = "something in it is missing, or of another kind"
            raise strange(self._name, path, beginning(response), why, self._variable) from None

    def _got(self, path: str, params: Mapping[str, str]) -> requests.Response:
        """Return an answer of status 200; raises as Metrics.value does."""
        response = send(
            self._session,
            "GET",
            self._url + path,
            timeout_s=self._timeout_s,
            server=self._name,
            hint=f"Check {self._variable} and that it runs.",
            params=params,
            auth=self._auth,
        )
        if response.status_code != 200:
            raise self._refusal(response, path, params.get("query"))
        return response

    def _refusal(self, response: requests.Response, path: str, query: str | None) -> DeployError:
        status = response.status_code
        if status in (401, 403):
            return AccessDenied(f"{self._name} denies access ({status}).", hint=self._credentials_hint())
        said = explanation(response)
        if status in (400, 422) and query is not None:
            return Misconfigured(
                f"{self._name} does not take a query ({status}): {said}. The query is: {excerpt(query, 400)}",
                hint="Correct it in the file of queries (TRITON_DEPLOY_BAKE_QUERIES, TRITON_DEPLOY_CANARY_QUERIES).",
            )
        if status < 500 and status not in MAY_PASS:
            return Misconfigured(
                f"{self._name} has nothing at {path} ({status}): {said}.",
                hint=f"Check {self._variable}: it is something else, or a path is missing in its address.",
            )
        return Unavailable(f"{self._name} answers {status}: {said}.", hint="Try again later.")

    def _credentials_hint(self) -> str:
        if self._auth:
            return f"User and password in {self._variable} are wrong, or may not read: correct them."
        return f"Put user and password into {self._variable}: http://user:password@host:port."


def _numbers(answer: Any) -> list[float]:
    """Return the numbers in an answer; raises LookupError, TypeError or ValueError for another form."""
    result = answer["data"]["result"]
    numbers = [result] if answer["data"]["resultType"] == "scalar" else [series["value"] for series in result]
    return [float(number[1]) for number in numbers]


def _intervals_s(answer: Any) -> Mapping[str, float]:
    """See Prometheus.scrape_intervals_s; raises as ``_numbers`` does."""
    found: dict[str, float] = {}
    for target in answer["data"]["activeTargets"]:
        job, interval_s = str(target["labels"]["job"]), seconds(target["scrapeInterval"])
        found[job] = max(interval_s, found.get(job, 0.0))
    return found


def _alert_names(answer: Any) -> Set[str]:
    """See Prometheus.alert_names; raises as ``_numbers`` does."""
    return {str(rule["name"]) for group in answer["data"]["groups"] for rule in group["rules"]}


def seconds(text: str) -> float:
    """Parse a duration of Prometheus (``1m30s``, ``15d``) into seconds; raises ValueError for other text."""
    parts = re.findall(r"([0-9]+)(ms|[smhdwy])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no time")
    return sum(int(number) * _UNITS_S[unit] for number, unit in parts)


def _begun(alerts: Any, since: datetime) -> Set[Firing]:
    """Return the alerts in an answer that began after ``since``; raises as ``_numbers`` does."""
    return {
        Firing(str(alert["labels"]["alertname"]), str(alert["labels"].get("model", "")))
        for alert in alerts
        if datetime.fromisoformat(alert["startsAt"]) > since
    }
