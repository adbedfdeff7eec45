"""Prometheus and Alertmanager, asked over their HTTP API.

Away, slow, empty and wrong are four things: ``Unavailable``, its kind ``SilentServer``, ``None``, and ``Misconfigured`` or
``AccessDenied``. The first three may pass by themselves; the last does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..errors import AccessDenied, Misconfigured, Unavailable
from ..errors.texts import excerpt
from ..rules.web_address import credentials
from .http import explanation, new_session, send, shown
from .http.answers import beginning, parsed, strange

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

MAY_PASS = (408, 425, 429)
"""Refusals that say nothing against the address."""


class Firing(NamedTuple):
    """An alert that fires: its name, and the model that it is about, or empty."""

    name: str
    model: str = ""


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

    def firing(self, since: datetime) -> Set[Firing]:
        """Return the alerts that began to fire after a moment and are not silenced.

        One cause may hit several models at once: each of them has its own.

        Raises:
            Misconfigured, AccessDenied, Unavailable: it can't be asked.
        """


class Prometheus:
    """A Prometheus server, or what speaks its API (Thanos, Mimir, VictoriaMetrics).

    Args:
        url: its base URL; user and password may be in it.
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
        # Nothing divided by nothing is nothing.
        return values[0] if values and math.isfinite(values[0]) else None

    def scrape_intervals_s(self) -> Mapping[str, float]:
        """Return how often each job is scraped, seconds; of several targets the longest. Raises as ``value`` does.

        Not everything that speaks Prometheus' API knows it: Misconfigured then.
        """
        return self._api.ask("/api/v1/targets", {"state": "active"}, _intervals_s)

    def jobs(self, names: Sequence[str]) -> Set[str]:
        """Return the jobs that have series of one of these names. Raises as ``value`` does."""
        match = f'{{__name__=~"{"|".join(names)}"}}'
        return self._api.ask(
            "/api/v1/label/job/values", {"match[]": match}, lambda answer: {*map(str, answer["data"])}
        )

    def alert_names(self) -> Set[str]:
        """Return the names of the alerting rules that are loaded. Raises as ``scrape_intervals_s`` does."""
        return self._api.ask("/api/v1/rules", {"type": "alert"}, _alert_names)


class Alertmanager:
    """An Alertmanager.

    Args:
        url: its base URL; user and password may be in it.
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
        """Return what ``read`` makes of the JSON of an answer."""
        response = self._got(path, params)
        try:
            return read(parsed(response, self._name, path, self._variable))
        except (LookupError, TypeError, ValueError, AttributeError):
            why = "something in it is missing, or of another kind"
            raise strange(self._name, path, beginning(response), why, self._variable) from None

    def _got(self, path: str, params: Mapping[str, str]) -> requests.Response:
        """Return an answer that is one; see Metrics.value for what it raises."""
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
        if response.status_code in (401, 403):
            raise AccessDenied(
                f"{self._name} denies access ({response.status_code}).", hint=self._credentials_hint()
            )
        if response.status_code in (400, 422) and "query" in params:
            raise Misconfigured(
                f"{self._name} does not take a query ({response.status_code}): {explanation(response)}. The query is: {excerpt(params['query'], 400)}",
                hint="Correct it in the file of queries (TRITON_DEPLOY_BAKE_QUERIES, TRITON_DEPLOY_CANARY_QUERIES).",
            )
        if response.status_code == 200:
            return response
        if response.status_code < 500 and response.status_code not in MAY_PASS:
            raise Misconfigured(
                f"{self._name} has nothing at {path} ({response.status_code}): {explanation(response)}.",
                hint=f"Check {self._variable}: it is something else, or a path is missing in its address.",
            )
        raise Unavailable(
            f"{self._name} answers {response.status_code}: {explanation(response)}.", hint="Try again later."
        )

    def _credentials_hint(self) -> str:
        if self._auth:
            return f"User and password in {self._variable} are wrong, or may not read: correct them."
        return f"Put user and password into {self._variable}: http://user:password@host:port."


def _numbers(answer: Any) -> list[float]:
    """Return the numbers in an answer of Prometheus; raises LookupError, TypeError or ValueError when it is none."""
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
    """Return a time as Prometheus writes it (``1m30s``, ``15d``), in seconds; raises ValueError when it is none."""
    parts = re.findall(r"([0-9]+)(ms|[smhdwy])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no time")
    return sum(int(number) * _UNITS_S[unit] for number, unit in parts)


def _begun(alerts: Any, since: datetime) -> Set[Firing]:
    """Return the alerts in an answer of Alertmanager that began after a moment; raises as ``_numbers`` does."""
    return {
        Firing(str(alert["labels"]["alertname"]), str(alert["labels"].get("model", "")))
        for alert in alerts
        if datetime.fromisoformat(alert["startsAt"]) > since
    }
