"""One way to ask a server over HTTP: limits of time, size and redirects, and errors in our own words.

``timeout_s`` limits the whole call, whatever the server does: connecting, TLS, redirects, repeats with their
pauses, head and body. The HTTP libraries are imported inside functions, because most steps of a deploy,
each a process of its own in Airflow, ask only Triton.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ...errors import DeployError, Misconfigured, Unavailable
from ...errors.texts import excerpt
from ...rules.web_address import shown, split
from . import body as http_body
from . import library_logs, tls
from . import redirects as http_redirects
from .answers import JsonAnswer, answer_of, explanation
from .redirects import Request
from .tls import Trust

if TYPE_CHECKING:
    import requests

__all__ = [
    "ANSWER_BYTES",
    "JsonAnswer",
    "SilentServer",
    "answer_of",
    "asked_pause",
    "broken_reads",
    "explanation",
    "limit",
    "new_session",
    "other_region",
    "refusal_of",
    "send",
    "shown",
    "unreachable",
]

ANSWER_BYTES = 16 << 20
"""Largest answer that is read, in bytes after decompression; files are streamed."""
PAUSES_S = (0.1, 0.2, 0.4)
"""Pauses before the repeats of a GET, seconds: a deploy must report a dead server within seconds, while
MLflow's own client tries for minutes."""
BUSY = (429, 502, 503, 504)
_REFUSAL_BYTES = 1 << 14


class SilentServer(Unavailable):
    """The server sent no answer, or only a part, in time; a repeat would only wait as long again."""


def new_session(*, pool_size: int, trust: Trust | None = None) -> requests.Session:
    """Return a session for ``send``.

    Args:
        pool_size: connections kept for parallel reads.
        trust: which certificates all its connections trust; by default those that the environment names for
            servers in general.

    Raises:
        Misconfigured: the environment names certificates that can't be used.
    """
    import requests

    from .connections import Adapter

    trust = tls.trust("other") if trust is None else trust
    session = requests.Session()
    session.trust = trust  # type: ignore[attr-defined]
    adapter = Adapter(pool_maxsize=pool_size)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    library_logs.quieten()
    return session


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
    max_bytes: int = ANSWER_BYTES,
) -> requests.Response:
    """Send a request and return the response, whatever its status. Only a GET is repeated.

    A GET is repeated when the connection could not be made or broke, and when the server is busy (429, 502,
    503, 504). A ``Retry-After`` beyond the time limit ends the repeats at once.

    Args:
        session: see ``new_session``.
        method: HTTP method.
        url: the address.
        timeout_s: longest wait for the whole answer, including repeats and redirects, seconds.
        server: name of the server in messages, with its address.
        hint: what to do when the server can't be reached.
        params: query parameters.
        body: sent as JSON.
        headers: request headers.
        auth: user and password.
        stream: leave the body unread; ``timeout_s`` then limits the head alone, and ``limit`` limits the
            body.
        max_bytes: largest body that is read, in bytes after decompression.

    Raises:
        SilentServer: no answer, or not all of it, in time.
        Unavailable: no connection, or the connection broke.
        Misconfigured: the certificate is not trusted, the environment's proxy blocks the request, the
            answer is too large, or a redirect leads to a place where the request may not go.
    """
    until_s = time.monotonic() + timeout_s
    exchange = _Exchange(session, until_s, timeout_s, server, hint, stream, max_bytes)
    request = Request(
        method=method,
        url=_with_params(url, params, server),
        headers={"Accept-Encoding": "gzip", **(headers or {})},
        auth=auth,
        body=body,
    )
    for pause_s in _pauses(method):
        wait_s = pause_s or 0.0
        try:
            response = exchange.answer(request)
        except SilentServer:
            raise
        except Unavailable:
            if pause_s is None or time.monotonic() + wait_s >= until_s:
                raise
        else:
            if response.status_code not in BUSY or pause_s is None:
                return response
            wait_s = max(pause_s, asked_pause(response))
            if time.monotonic() + wait_s >= until_s:
                return response
            response.close()
        time.sleep(wait_s)
    raise AssertionError


def other_region(server: str, region: str) -> Misconfigured:
    """Return the error for an answer of S3 that the bucket is in another region.

    Args:
        server: name of the server in messages.
        region: the region that S3 names.
    """
    return Misconfigured(
        f"{server} says that the bucket is in the region {excerpt(region, 60)}, and the request was signed for another.",
        hint=f"Set AWS_DEFAULT_REGION={excerpt(region, 60)} on the worker, or correct the bucket's name.",
    )


def asked_pause(response: requests.Response) -> float:
    """Return the pause that the server asks for before a repeat (``Retry-After``), seconds; or 0."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def limit(response: requests.Response, seconds: float) -> None:
    """Limit the time for the rest of a streamed body; a late read raises one of ``broken_reads``.

    Args:
        response: its body is not read to the end.
        seconds: limit for all remaining reads together, counted from now.
    """
    from . import connections as http_connections

    http_connections.limit(response, seconds)


def refusal_of(response: requests.Response, seconds: float) -> str:
    """Return the ``explanation`` of a streamed refusal, from the bytes that arrive within ``seconds``."""
    limit(response, seconds)
    try:
        content = response.raw.read(_REFUSAL_BYTES, decode_content=False)
    except broken_reads():
        content = b""
    response._content, response._content_consumed = content, True  # type: ignore[attr-defined]
    return explanation(response)


def broken_reads() -> tuple[type[Exception], ...]:
    """Return the exceptions that the HTTP libraries raise when a streamed body does not arrive."""
    from . import connections as http_connections

    return http_connections.broken()


def unreachable(error: Exception, server: str, hint: str, kind: tls.Kind = "other") -> DeployError:
    """Return the error for an exception of the HTTP libraries; see ``http_failures.unreachable``."""
    from . import failures as http_failures

    return http_failures.unreachable(error, server, hint, kind)


def _pauses(method: str) -> Iterator[float | None]:
    """Yield the pause after each attempt; None after the last."""
    if method == "GET":
        yield from PAUSES_S
    yield None


class _Exchange:
    """The attempts of one call, within one time limit.

    Args:
        session, server, hint, stream, max_bytes: see ``send``.
        until_s: end of the time limit, by ``time.monotonic``.
        timeout_s: length of the time limit, for messages.
    """

    def __init__(
        self,
        session: requests.Session,
        until_s: float,
        timeout_s: float,
        server: str,
        hint: str,
        stream: bool,
        max_bytes: int,
    ) -> None:
        self._session, self._until_s, self._timeout_s = session, until_s, timeout_s
        self._server, self._hint = server, hint
        self._stream, self._max_bytes = stream, max_bytes
        self._trust: Trust = session.trust  # type: ignore[attr-defined]

    def answer(self, request: Request) -> requests.Response:
        """Ask once, follow redirects, and read the body unless it is streamed; raises as ``send`` does."""
        first = request
        for _ in range(http_redirects.MOST + 1):
            response = self._head(request, at_home=_host(request.url) == _host(first.url))
            if 300 <= response.status_code < 400 and response.headers.get("x-amz-bucket-region"):
                response.close()
                # A signature is valid in one region: the other region would refuse the request.
                raise other_region(self._server, response.headers["x-amz-bucket-region"])
            onward = http_redirects.onward(request, response.status_code, _location(response), self._server)
            if onward is None:
                response.secrets = _secrets(first)  # type: ignore[attr-defined]
                if not self._stream:
                    self._read(response)
                return response
            response.close()
            request = onward
        raise http_redirects.too_many(request, self._server)

    def _head(self, request: Request, *, at_home: bool) -> requests.Response:
        from .connections import Until, broken

        try:
            prepared, proxies = _prepared(self._session, request)
            response = self._session.get_adapter(request.url).send(
                prepared,
                stream=True,
                timeout=Until(self._until_s),  # type: ignore[arg-type]
                verify=self._trust.verify,
                # The client certificate is meant for the first host only.
                cert=self._trust.cert if at_home else None,
                proxies=proxies,
            )
        except broken() as error:
            raise self._failed(error, request.url) from error
        if proxies:
            self._pass_proxy(response, request.url)
        return response

    def _pass_proxy(self, response: requests.Response, url: str) -> None:
        """Note an answer's proxy on it; raise Misconfigured when the proxy wants credentials."""
        from . import failures as http_failures

        variable, proxy = http_failures.proxy_for(url)
        if response.status_code == 407:
            response.close()
            raise http_failures.proxy_refuses(self._server, url)
        response.proxy = f"{proxy} of {variable}" if proxy else ""  # type: ignore[attr-defined]

    def _read(self, response: requests.Response) -> None:
        from .connections import broken, limit

        limit(response, self._until_s - time.monotonic())
        try:
            content = b"".join(http_body.pieces(response, self._max_bytes, self._server))
        except broken() as error:
            response.close()
            raise self._failed(error, response.url) from error
        except BaseException:
            response.close()
            raise
        response._content, response._content_consumed = content, True  # type: ignore[attr-defined]
        # Guessing the encoding of a large answer takes seconds.
        response.encoding = response.encoding or "utf-8"

    def _failed(self, error: Exception, url: str) -> DeployError:
        from . import failures as http_failures

        if http_failures.is_timeout(error):
            return SilentServer(
                f"{self._server} did not answer in time ({round(self._timeout_s, 1):g} s for the whole answer).",
                hint=self._hint,
            )
        return http_failures.unreachable(error, self._server, self._hint, self._trust.kind, url)


def _prepared(session: requests.Session, request: Request) -> tuple[requests.PreparedRequest, dict[str, str]]:
    """Return a request in the library's form, and the environment's proxies for it.

    The session does not prepare the request: it would add a ``.netrc``'s credentials and cookies, and would
    put REQUESTS_CA_BUNDLE before the server's own bundle.
    """
    import requests

    prepared = requests.Request(
        request.method,
        request.url,
        headers={**session.headers, **request.headers},
        json=request.body,
        # As bytes: the library would encode text as Latin-1, which not every password fits.
        auth=_in_utf8(*request.auth) if request.auth else _without_credentials,
    ).prepare()
    return prepared, dict(requests.utils.get_environ_proxies(request.url))


def _with_params(url: str, params: Mapping[str, str] | None, server: str) -> str:
    import requests

    try:
        return str(requests.Request("GET", url, params=params, auth=_without_credentials).prepare().url)
    except (requests.RequestException, ValueError) as error:
        raise Misconfigured(
            f"{server} can't be asked: {shown(url)} is no address of a web server.",
            hint="Correct its address.",
        ) from error


def _location(response: requests.Response) -> str | None:
    text = response.headers.get("Location")
    try:
        # The library reads headers as Latin-1.
        return text.encode("latin-1").decode() if text else None
    except UnicodeError:
        return text


def _host(url: str) -> str | None:
    parts = split(url)
    return parts.hostname if parts else None


def _secrets(request: Request) -> tuple[str, ...]:
    """Return the password to remove from an answer; a short one stays, for it occurs in any text."""
    return tuple(part for part in (request.auth or ())[1:] if len(part) >= 6)


def _in_utf8(user: str, password: str) -> Any:
    return user.encode(), password.encode()


def _without_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep ``requests`` from adding the credentials of an address or a ``.netrc``."""
    return request
