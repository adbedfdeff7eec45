"""Turns exceptions of the HTTP libraries into ours: silence, broken connections, certificates, proxies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import BadStatusLine, RemoteDisconnected
from os import environ
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from ...errors import DeployError, Misconfigured, Unavailable
from ...errors.texts import excerpt
from ...rules.web_address import shown
from .. import http
from . import tls
from .answers import SHOWN_CHARACTERS
from .library_logs import redacted

_UNSENDABLE = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationValueError,
)


def is_timeout(error: Exception) -> bool:
    """Whether an exception of the HTTP libraries says that a time limit was reached."""
    cause = _root(error)
    # In urllib3 the error of a refused connection is a subclass of its timeout.
    return isinstance(
        cause, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    ) and not isinstance(cause, urllib3.exceptions.NewConnectionError)


def unreachable(
    error: Exception, server: str, hint: str, kind: tls.Kind = "other", url: str = ""
) -> DeployError:
    """Return the error for an exception of the HTTP libraries.

    Args:
        error: exception of the HTTP libraries.
        server: name of the server in messages, with its address.
        hint: what to do when the server can't be reached.
        kind: of the server; decides which variables name its certificate.
        url: address of the request; decides which proxy was used.

    Returns:
        Misconfigured for a certificate, a proxy of the environment or a request that can't be sent;
        SilentServer for silence; Unavailable for everything else.
    """
    refused = tls.refusal(error, server, kind)
    if refused:
        return refused
    if any(
        isinstance(each, (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError))
        for each in _all(error)
    ):
        return _proxy_in_the_way(error, server, url)
    if is_timeout(error):
        return http.SilentServer(f"{server} did not answer in time.", hint=hint)
    return _failed(_root(error), server, hint + tls.broken_off(error, kind))


def proxy_for(url: str) -> tuple[str, str]:
    """Return the variable that names the proxy for a URL, and the proxy's address; both empty without one."""
    scheme = urlsplit(url).scheme
    chosen = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) or ""
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if environ.get(name)), "HTTP_PROXY")
    return (variable, shown(chosen)) if chosen else ("", "")


def proxy_refuses(server: str, url: str) -> Misconfigured:
    """Return the error for a proxy that wants credentials.

    Args:
        server: name of the server in messages, with its address.
        url: address of the request.
    """
    variable, proxy = proxy_for(url)
    return Misconfigured(
        f"{server} is asked through the proxy {proxy}, which {variable} names, and that proxy wants a user and a password (407).",
        hint=f"Write them in {variable}: http://user:password@host:port; or add {urlsplit(url).hostname} to NO_PROXY.",
    )


def _failed(cause: Exception, server: str, hint: str) -> DeployError:
    if isinstance(cause, requests.exceptions.InvalidHeader | UnicodeEncodeError):
        # The exception's text is not shown: it holds the credentials.
        return Misconfigured(
            f"{server} can't be asked: the user, password or token that is set has a character that no header can have.",
            hint="Look for line breaks and quotation marks in it, and set it again.",
        )
    if isinstance(cause, urllib3.exceptions.InvalidHeader):
        return _not_http(cause, server, hint)
    if isinstance(cause, (*_UNSENDABLE, UnicodeError)):
        return Misconfigured(
            f"{server} can't be asked: {_reason(cause)}.",
            hint="Check its address, and user, password or token.",
        )
    if isinstance(cause, (ValueError, OverflowError)) and not isinstance(cause, requests.RequestException):
        return _not_http(cause, server, hint)
    if isinstance(cause, urllib3.exceptions.ProtocolError):
        return _broken(cause, server, hint)
    return Unavailable(f"{server} can't be reached: {_reason(cause)}.", hint=hint)


def _proxy_in_the_way(error: Exception, server: str, url: str) -> Misconfigured:
    variable, proxy = proxy_for(url) if url else ("HTTPS_PROXY", "of the environment")
    reason = next((_reason(each) for each in _all(error) if isinstance(each, OSError) and each.args[1:]), "")
    tunnel = next((str(each) for each in _all(error) if "Tunnel connection failed" in str(each)), "")
    said = re.search(r"Tunnel connection failed: [^')]*", tunnel)
    why = (
        f"it answers {said[0].removeprefix('Tunnel connection failed: ')}"
        if said
        else reason or _reason(_root(error))
    )
    host = urlsplit(url).hostname or "the server's name"
    return Misconfigured(
        f"{server} is asked through the proxy {proxy}, which {variable} names, and that proxy lets nothing through: {why}.",
        hint=f"Add {host} to NO_PROXY if it is reached without a proxy; else correct {variable}.",
    )


def _broken(cause: urllib3.exceptions.ProtocolError, server: str, hint: str) -> Unavailable:
    what = cause.args[-1]
    if isinstance(what, BadStatusLine) and not isinstance(what, RemoteDisconnected):
        return _not_http(what, server, hint)
    return Unavailable(
        f"{server} broke the connection off: {redacted(excerpt(str(what), SHOWN_CHARACTERS))}.", hint=hint
    )


def _not_http(what: BaseException, server: str, hint: str) -> Unavailable:
    said = excerpt(redacted(str(what)), SHOWN_CHARACTERS)
    return Unavailable(
        f"{server} answers with something that is not HTTP: {said}.",
        hint=f"It may be the port of another program. {hint}",
    )


def _reason(cause: BaseException) -> str:
    # urllib3's text begins with the connection object.
    text = re.sub(r"^<?\w+\(host=.*?\)(?: at 0x\w+>)?: ", "", str(cause))
    return redacted(excerpt(" ".join(text.split()), SHOWN_CHARACTERS)).rstrip(".")


def _root(error: Exception) -> Exception:
    """Return the innermost exception: ``requests`` wraps urllib3, which wraps the cause."""
    first: Any = error.args[0] if error.args else None
    inner = getattr(first, "reason", None)
    if isinstance(inner, Exception):
        return _root(inner)
    return _root(first) if isinstance(first, Exception) else error


def _all(error: BaseException) -> Iterator[BaseException]:
    return tls.chain(error)
