"""Reads a server's answer: checks its form, limits its size, and raises a clear error for anything else.

Pure rules: no I/O. A login page before a server, an older server and a hostile server all answer something
unexpected; the error then names the request and shows the beginning of the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from ...errors import Misconfigured
from ...errors.texts import excerpt
from ...rules.web_address import shown, split
from .library_logs import redacted

if TYPE_CHECKING:
    import requests

MOST_VALUES = 600_000
"""Most values in one answer: a value may be written as one character and takes a hundred times its memory."""
SHOWN_CHARACTERS = 200
_LOOKED_AT = 4096
"""Characters at the beginning of a refusal that are searched for its message."""


class JsonAnswer:
    """A JSON answer, or a part of one.

    Args:
        value: the part.
        server: name of the server in messages.
        asked: the request, for messages.
        came: the beginning of the answer.
        setting: variable with the server's address.
        path: of the part in the answer, for messages.
    """

    __slots__ = ("_about", "_path", "value")

    def __init__(
        self, value: Any, server: str, asked: str, came: str, setting: str = "", path: str = ""
    ) -> None:
        self.value = value
        self._about = server, asked, came, setting
        self._path = path

    def part(self, name: str) -> JsonAnswer:
        """Return a field that is an object; raises Misconfigured for anything else."""
        return self._below(name, dict, "an object")

    def text(self, name: str, default: str | None = None) -> str:
        """Return a field that is text.

        Args:
            name: of the field.
            default: for a field that is missing or null; without a default the field is required.

        Raises:
            Misconfigured: a required field is missing, or the field is no text.
        """
        if default is not None and self._field(name) is None:
            return default
        text = str(self._below(name, str, "text").value)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            # JSON can write half a surrogate pair, which UTF-8 can't encode.
            raise self.strange(f"{self._path}{name} is no text")
        return text

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a field that is a whole number of 0 or more, maybe written as text; see ``text``."""
        value = self._field(name)
        if default is not None and value is None:
            return default
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
            return value
        raise self.strange(f"{self._path}{name} is no whole number of 0 or more")

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a field that is true or false; see ``text``."""
        value = self._field(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool):
            return value
        raise self.strange(f"{self._path}{name} is neither true nor false")

    def items(self, name: str) -> list[JsonAnswer]:
        """Return a field that is a list of objects; empty if missing, as MLflow leaves out empty lists."""
        if self._field(name) is None:
            return []
        found = self._below(name, list, "a list").value
        about = (*self._about, f"{self._path}{name}[].")
        return [JsonAnswer(self._object(each, name), *about) for each in found]

    def strange(self, why: str) -> Misconfigured:
        """Return the error for an answer of the wrong form."""
        server, asked, came, setting = self._about
        return strange(server, asked, came, why, setting)

    def _field(self, name: str) -> Any:
        return self.value.get(name)

    def _below(self, name: str, kind: type, what: str) -> JsonAnswer:
        value = self._field(name)
        if not isinstance(value, kind):
            missing = "is missing" if value is None else f"is not {what}"
            raise self.strange(f"{self._path}{name} {missing}")
        return JsonAnswer(value, *self._about, f"{self._path}{name}.")

    def _object(self, value: Any, name: str) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        raise self.strange(f"{self._path}{name} holds something other than objects")


def answer_of(response: requests.Response, server: str, asked: str, setting: str = "") -> JsonAnswer:
    """Return the JSON object in a server's answer.

    Args:
        response: see ``http.send``.
        server: name of the server in messages, with its address.
        asked: the request, as the text after "answer".
        setting: variable with the server's address, for the hint.

    Raises:
        Misconfigured: the answer is no JSON object, or has more than ``MOST_VALUES`` values.
    """
    value = parsed(response, server, asked, setting)
    if not isinstance(value, dict):
        raise strange(server, asked, beginning(response), "it is no JSON object", setting)
    return JsonAnswer(value, server, asked, beginning(response), setting)


def parsed(response: requests.Response, server: str, asked: str, setting: str = "") -> Any:
    """Return the JSON value, of any form, in a server's answer; see ``answer_of``."""
    came = beginning(response)
    values = sum(map(response.content.count, (b",", b"[", b"{")))
    if values > MOST_VALUES:
        raise strange(server, asked, came, f"it has more than {MOST_VALUES} values", setting)
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        raise strange(server, asked, came, what_it_is(response), setting) from None


def strange(server: str, asked: str, came: str, why: str, setting: str = "") -> Misconfigured:
    """Return the error for an unexpected answer.

    Args:
        server: name of the server, with its address.
        asked: the request.
        came: the beginning of the answer.
        why: the defect of the answer.
        setting: variable with the server's address.
    """
    begins = f" It begins: {excerpt(came, SHOWN_CHARACTERS)!r}." if came else ""
    return Misconfigured(
        f"{server} does not answer {asked} as it should: {why}.{begins}",
        hint=f"Check {setting or 'its address'}, and whether a login page or a proxy stands before it.",
    )


def beginning(response: requests.Response) -> str:
    """Return the beginning of an answer in one line, without the request's secrets and without tags."""
    return excerpt(unmarked(_first_text(response)), SHOWN_CHARACTERS)


def unmarked(text: str) -> str:
    """Return a page's text without its tags; a text that is no page is returned unchanged."""
    if not text.lstrip().startswith("<"):
        return text
    return " ".join(re.sub(r"<[^>]*(?:>|$)", " ", text).split())


def explanation(response: requests.Response) -> str:
    """Return the message of a refusal in one line.

    The message is MLflow's ``message``, S3's code and message, an HTML title, or else the beginning of the
    text.
    """
    text = _first_text(response)
    said = _message(response) or _in_xml(text) or text
    shown_ = excerpt(" ".join(unsecret(said, response).split()), 300).rstrip(".") or "without a word"
    return f"{shown_}{_by_proxy(response)}"


def error_code(response: requests.Response) -> str:
    """Return MLflow's ``error_code`` of a refusal, or an empty text."""
    return str(_object(response).get("error_code", ""))


def unsecret(text: str, response: requests.Response) -> str:
    """Return a text without credentials.

    A server may repeat the credentials of the request. The queries of addresses are removed too, for an
    answer may hold a presigned URL.

    Args:
        text: a part of the answer.
        response: the answer, with its request.
    """
    for secret in sorted(set(_secrets(response)), key=len, reverse=True):
        text = text.replace(secret, "***")
    return redacted(text)


def _first_text(response: requests.Response) -> str:
    # Twice the length is searched, since a secret that is cut in two would not be found.
    return unsecret(response.content[: 2 * _LOOKED_AT].decode(errors="replace"), response)[:_LOOKED_AT]


def _secrets(response: requests.Response) -> Iterator[str]:
    request = response.request
    if request is None:
        return
    for name, value in request.headers.items():
        if re.search(r"authorization|token|signature|secret|cookie", name, re.IGNORECASE):
            yield from _forms(str(value))
    parts = split(request.url or "")
    for name, value in parse_qsl(parts.query if parts else ""):
        if re.search(r"signature|credential|token", name, re.IGNORECASE):
            yield from _forms(value)
    yield from getattr(response, "secrets", ())


def _forms(value: str) -> Iterator[str]:
    """Yield the forms in which a server may repeat a secret, except short ones, which occur in any text."""
    for form in (value, value.partition(" ")[2], unquote(value)):
        if len(form) >= 6:
            yield form


def _object(response: requests.Response) -> Mapping[str, Any]:
    if len(response.content) > 1 << 20:
        return {}
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _message(response: requests.Response) -> str:
    body = _object(response)
    found = next((body[name] for name in ("message", "detail", "error") if name in body), "")
    return found if isinstance(found, str) else json.dumps(found)[:_LOOKED_AT]


def _in_xml(text: str) -> str:
    """Return the title of a page, or the code and message of S3."""
    found = {
        name: re.search(rf"<{name}>([^<]*)</{name}>", text, re.IGNORECASE)
        for name in ("title", "Code", "Message")
    }
    return ": ".join(match[1].strip() for match in found.values() if match)


def what_it_is(response: requests.Response) -> str:
    """Return a clause that names the kind of an answer that is not JSON; empty for JSON."""
    begins = response.content[:_LOOKED_AT].lstrip().lower()
    if begins.startswith((b"{", b"[")) and _parses(response.content):
        return ""
    sent_on = _host(response.request.url if response.request else "") != _host(response.url)
    whence = f", which came from {shown(response.url)}" if sent_on else _by_proxy(response)
    if b"<html" in begins or begins.startswith(b"<!doctype html"):
        return f"it is a web page{whence}, not JSON"
    if begins.startswith((b"<?xml", b"<error>")):
        return f"it is XML{whence}, as S3 answers, not JSON"
    return f"it is no JSON{whence}"


def _by_proxy(response: requests.Response) -> str:
    proxy = getattr(response, "proxy", "")
    return f" (asked through the proxy {proxy})" if proxy else ""


def _parses(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _host(url: str | None) -> str | None:
    parts = split(url or "")
    return parts.hostname if parts else None
