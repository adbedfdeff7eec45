"""Where a redirect may send a request. Pure rules: no I/O.

The answering server chooses the new address. So credentials go to no host but the first one, and only a
request that reads may be sent to another host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, urljoin

from ...errors import Misconfigured
from ...rules.web_address import shown, split

MOST = 3
"""Most redirects that one request follows."""

_SAME_METHOD = (307, 308)
_READS = (301, 302, 303, *_SAME_METHOD)
_SECRET = re.compile(r"authorization|cookie|token|signature|secret|key", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to a server.

    Attributes:
        method: GET or another.
        url: whole address, with its query.
        headers: may hold credentials.
        auth: user and password.
        body: sent as JSON.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    auth: tuple[str, str] | None = None
    body: Mapping[str, Any] | None = None

    @property
    def has_credentials(self) -> bool:
        """Whether the request holds credentials."""
        return self.auth is not None or any(map(_SECRET.search, self.headers))

    def without_credentials(self) -> Request:
        """Return the request without its credentials, which only the first host may see."""
        kept = {name: value for name, value in self.headers.items() if not _SECRET.search(name)}
        return replace(self, headers=kept, auth=None)


def onward(request: Request, status: int, location: str | None, server: str) -> Request | None:
    """Return the request that follows a redirect, or None when the answer is no redirect.

    Args:
        request: the answered request.
        status: of the answer.
        location: target of the redirect; without one the answer is no redirect.
        server: name of the server in messages.

    Raises:
        Misconfigured: the request may not be sent to that target.
    """
    if status not in _READS or not location:
        return None
    try:
        target = urljoin(request.url, location)
    except ValueError:
        target = location
    old, new = split(request.url), split(target)
    if new is None or old is None or not new.hostname or new.scheme not in PORTS:
        raise _refused(request, server, target, "that is no address of a web server")
    target = new._replace(netloc=new.netloc.rpartition("@")[2], fragment="").geturl()
    at_home = _same_host(old, new)
    if request.method != "GET":
        if at_home and status in _SAME_METHOD:
            return replace(request, url=target)
        raise _refused(request, server, target, f"a {request.method} is followed only to the same server")
    if at_home:
        return replace(request, url=target)
    if (old.scheme, new.scheme) == ("https", "http"):
        raise _refused(request, server, target, "that is not encrypted, and the first address is")
    return replace(request.without_credentials(), url=target)


def too_many(request: Request, server: str) -> Misconfigured:
    """Return the error for a request that was redirected more than ``MOST`` times."""
    return _refused(request, server, request.url, f"more than {MOST} times in a row it was sent on")


def _same_host(old: SplitResult, new: SplitResult) -> bool:
    """Whether the new address may get the credentials: the same host and port, or https of the same host."""
    if old.hostname != new.hostname:
        return False
    upgraded = (old.scheme, new.scheme) == ("http", "https")
    return upgraded or (old.scheme, _port(old)) == (new.scheme, _port(new))


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _refused(request: Request, server: str, target: str, why: str) -> Misconfigured:
    return Misconfigured(
        f"{server} sends the request on to {shown(target)}, which is not followed: {why}.",
        hint="Set its address to the one that answers, with the right scheme, or correct what stands before it.",
    )
