"""Where a request may be sent on to. Pure rules: no I/O.

Whoever answers chooses the address, so credentials of ours go to the host that they are for and to no other, and only what reads may
go anywhere else.
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
"""Redirects that are followed."""

_SAME_METHOD = (307, 308)
_READS = (301, 302, 303, *_SAME_METHOD)
_SECRET = re.compile(r"authorization|cookie|token|signature|secret|key", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a server.

    Attributes:
        method: GET or another.
        url: whole address, with its query.
        headers: credentials may be among them.
        auth: user and password.
        body: for JSON.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    auth: tuple[str, str] | None = None
    body: Mapping[str, Any] | None = None

    @property
    def has_credentials(self) -> bool:
        """Whether credentials of ours go along."""
        return self.auth is not None or any(map(_SECRET.search, self.headers))

    def without_credentials(self) -> Request:
        """Return the same without what only its first host may see."""
        kept = {name: value for name, value in self.headers.items() if not _SECRET.search(name)}
        return replace(self, headers=kept, auth=None)


def onward(request: Request, status: int, location: str | None, server: str) -> Request | None:
    """Return what to ask in place of a request, or None when the answer to it is no redirect.

    Args:
        request: what was asked.
        status: of the answer.
        location: where the answer sends it; without one it is an answer like others.
        server: what to call the server in a message.

    Raises:
        Misconfigured: it may not be sent there.
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
    """Return the error for a request that is sent on again and again."""
    return _refused(request, server, request.url, f"more than {MOST} times in a row it was sent on")


def _same_host(old: SplitResult, new: SplitResult) -> bool:
    """Whether credentials may go along: the same host and port, or https of the same host."""
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
