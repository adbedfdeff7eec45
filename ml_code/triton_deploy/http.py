"""One HTTP session for MLflow and S3: deadlines, a few retries of what may be repeated, errors in our own words.

The HTTP libraries are imported where they are used: most steps of a deploy, each a process of its own in Airflow, ask only Triton.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import Unavailable

if TYPE_CHECKING:
    import requests


class SilentServer(Unavailable):
    """The server kept silent for the whole time limit; asking again at once would only add the limits up."""


def new_session(*, pool_size: int) -> requests.Session:
    """Return a session that repeats a GET twice when the connection broke or the server was overloaded.

    Args:
        pool_size: connections kept for parallel reads.
    """
    import requests
    from requests.adapters import HTTPAdapter

    from .http_retries import QuickFailures

    session = requests.Session()
    # A server that is down must be reported within seconds: MLflow's own client tries for minutes.
    retry = QuickFailures(
        total=2,
        backoff_factor=0.2,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
    )
    adapter = HTTPAdapter(max_retries=retry, pool_maxsize=pool_size)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def get(
    session: requests.Session,
    url: str,
    *,
    timeout_s: float,
    server: str,
    hint: str,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    stream: bool = False,
) -> requests.Response:
    """GET a URL and return the response, whatever its status.

    Args:
        session: see ``new_session``.
        url: the address.
        timeout_s: longest wait for a connection, and for each answer on it, seconds.
        server: what to call the server in a message, with its address.
        hint: what to do when it can't be reached.
        params: query parameters.
        headers: request headers.
        auth: user and password.
        stream: leave the body unread.

    Raises:
        SilentServer: no answer in time.
        Unavailable: no connection, or it broke.
    """
    return send(
        session,
        "GET",
        url,
        timeout_s=timeout_s,
        server=server,
        hint=hint,
        params=params,
        headers=headers,
        auth=auth,
        stream=stream,
    )


def send(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout_s: float,
    server: str,
    hint: str,
    params: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    stream: bool = False,
) -> requests.Response:
    """Send a request of any method, with ``body`` as JSON; see ``get``. Only a GET is repeated."""
    import requests

    try:
        return session.request(
            method,
            url,
            params=params,
            json=body,
            headers=headers,
            auth=auth or _without_credentials,
            timeout=timeout_s,
            stream=stream,
            allow_redirects=True,
        )
    except requests.RequestException as error:
        raise unreachable(error, server, hint) from error


def explanation(response: requests.Response) -> str:
    """Return what a refusal says, in a line: the ``message`` of MLflow's JSON, an HTML title, or how the text begins."""
    try:
        text = str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        title = re.search(r"<title>(.*?)</title>", response.text, re.DOTALL | re.IGNORECASE)
        text = title[1] if title else response.text
    return " ".join(text.split())[:300].rstrip(".")


def broken_reads() -> tuple[type[Exception], ...]:
    """Return what the HTTP libraries raise when a body that is streamed does not arrive."""
    import requests
    import urllib3

    return urllib3.exceptions.HTTPError, requests.RequestException


def unreachable(error: Exception, server: str, hint: str) -> Unavailable:
    """Return the error for an exception of the HTTP libraries."""
    import urllib3

    from .http_retries import is_timeout

    cause = _root(error)
    if is_timeout(cause):
        return SilentServer(f"{server} did not answer in time.", hint=hint)
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        return Unavailable(f"{server} broke the connection off: {cause.args[-1]}.", hint=hint)
    # urllib3 puts the connection object before what happened.
    reason = re.sub(r"^\w+\(host=.*?\): ", "", str(cause)).rstrip(".")
    return Unavailable(f"{server} can't be reached: {reason}.", hint=hint)


def _root(error: Exception) -> Exception:
    """Unwrap ``requests`` around urllib3 around what happened."""
    first = error.args[0] if error.args else None
    inner = getattr(first, "reason", None)
    if isinstance(inner, Exception):
        return _root(inner)
    return _root(first) if isinstance(first, Exception) else error


def _without_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep ``requests`` from adding credentials of a ``.netrc`` to a presigned URL."""
    return request
