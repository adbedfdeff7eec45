"""Judges a store's answer: does it hold the listed file, and the same content as earlier answers?

Pure rules: no I/O. An ``Interruption`` may pass with a repeat; a repeat would change no other error.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs

from ..errors import AccessDenied, DeployError, Misconfigured, NotFound, Unavailable
from ..rules.web_address import split
from . import http

AGAIN = "Check that the server runs and can be reached from this worker, then deploy again."
SOUND = (200, 206)
PLAIN_ENCODINGS = ("", "identity", "aws-chunked")
"""``aws-chunked`` is the encoding of an upload; some servers repeat it in the answer and send the plain
bytes."""


class Interruption(Exception):
    """An attempt failed, and a repeat may succeed.

    Args:
        problem: the error to raise if no repeat succeeds.
        asked_s: pause that the server asked for, seconds.
    """

    def __init__(self, problem: DeployError, asked_s: float = 0.0) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.asked_s = asked_s


class OneStreamOnly(Exception):
    """The server refuses ranges, or does not tell whether all ranges are of one content."""


@dataclass(frozen=True)
class Validator:
    """A header that changes with an object's content: a strong ``ETag``, else ``Last-Modified``."""

    header: str
    value: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """Return the validator of an answer; None if neither header is usable."""
        for header in ("ETag", "Last-Modified"):
            value = headers.get(header, "").strip()
            if re.fullmatch(r"[\x20-\x7e]{3,1000}", value) and not value.startswith("W/"):
                return cls(header, value)
        return None

    @property
    def condition(self) -> dict[str, str]:
        """Request headers that make the server answer 412 once the object has another content."""
        return {"If-Match" if self.header == "ETag" else "If-Unmodified-Since": self.value}

    def require(self, headers: Mapping[str, str], server: str) -> None:
        """Raise Unavailable for an answer with another content: not every server honours the condition."""
        value = headers.get(self.header, "").strip()
        if value != self.value:
            raise replaced(server, f"its {self.header} was {self.value} and is now {value or 'missing'}")


def end_of_range(
    status: int, headers: Mapping[str, str], span: tuple[int, int], size: int, server: str
) -> int:
    """Return the end of the range in an answer, as an offset in the file, bytes.

    Args:
        status: of the answer, one of ``SOUND``.
        headers: of the answer.
        span: offsets of the first requested byte, and of the byte after the last.
        size: size of the listed file, bytes.
        server: name of the server in messages.

    Raises:
        OneStreamOnly: the answer does not hold the requested range.
        Unavailable: the size of the file is not the listed size.
        Misconfigured: the answer is compressed, or a web page.
    """
    start, end = span
    require_plain(headers, server)
    # rclone answers 200 with a Content-Range; a server that ignores ranges answers 200 without.
    given = headers.get("Content-Range", "").strip()
    if not given and status == 200 and span == (0, size):
        require_length(headers, size, server)
        return size
    found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", given)
    if found is None:
        raise OneStreamOnly(f"{server} does not answer ranged reads")
    if found[3] not in ("*", str(size)):
        raise changed(server, f"it has {found[3]} bytes, {size} were listed")
    if int(found[1]) != start or int(found[2]) < start:
        raise OneStreamOnly(f"{server} answers other ranges than it is asked for")
    return min(int(found[2]) + 1, end)


def require_whole(status: int, headers: Mapping[str, str], size: int, server: str) -> None:
    """Raise Unavailable or Misconfigured, as ``end_of_range`` does, unless an answer is the whole file."""
    require_plain(headers, server)
    if status != 200 and headers.get("Content-Range", "").strip() != f"bytes 0-{size - 1}/{size}":
        raise changed(server, f"it answers a part of it ({status}) where the whole was asked for")
    require_length(headers, size, server)


def require_length(headers: Mapping[str, str], size: int, server: str) -> None:
    """Raise Unavailable for an answer with another ``Content-Length``; Misconfigured for a web page."""
    length = headers.get("Content-Length", "").strip()
    if length == str(size):
        return
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise Misconfigured(
            f"{server} sends a web page where the artifact was asked for.",
            hint="Check its address, and whether a login page or a proxy stands before it.",
        )
    if re.fullmatch("[0-9]{1,18}", length):
        raise changed(server, f"it has {int(length)} bytes, {size} were listed")


def require_plain(headers: Mapping[str, str], server: str) -> None:
    """Raise Misconfigured for a compressed answer: the digest is of the file's plain bytes."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in PLAIN_ENCODINGS:
        raise Misconfigured(
            f"{server} sends the artifact in the encoding {encoding[:40]!r}, although its plain bytes were asked for.",
            hint="Turn off compression in the server, or in the proxy before it; a file that was stored with that encoding has to be logged again without it.",
        )


def refusal(status: int, text: str, said: str, server: str, credentials: str) -> DeployError | None:
    """Return the error for a refusal that a repeat would not change; None for a refusal that may pass.

    Args:
        status: of the answer.
        text: the beginning of its body.
        said: the part of the body to show.
        server: name of the server in messages.
        credentials: hint for credentials that the server refuses.
    """
    reason = f"({status}) {said}".rstrip(" .")
    region = _in_xml("Region", text)
    if region and (status in (301, 307) or _in_xml("Code", text).startswith("Authorization")):
        return http.other_region(server, region)
    if status == 416:
        return changed(server, "it is shorter")
    if status == 412:
        return replaced(server, "it is not the one of the first part any more")
    if status in (401, 403) or _is_expired(text):
        return AccessDenied(f"{server} denies the artifact: {reason}.", hint=credentials)
    # MLflow's proxy reports a missing object as a failure of its own.
    if status in (404, 410) or "NoSuchKey" in text:
        return NotFound(
            f"{server} no longer has the artifact: {reason}.",
            hint="Register the model version again.",
        )
    if status in (408, 429) or (status >= 500 and status not in (501, 505)):
        return None
    return Misconfigured(
        f"{server} does not hand out the artifact: {reason}.",
        hint="Check its address and what stands before it, and look at its log.",
    )


def overloaded(status: int, said: str, server: str) -> Unavailable:
    """Return the error for a refusal that may pass, to be raised when the repeats end."""
    reason = f"({status}) {said}".rstrip(" .")
    return Unavailable(f"{server} failed to hand out the artifact: {reason}.", hint=AGAIN)


def is_to_be_renewed(status: int, text: str, url: str, *, worked: bool) -> bool:
    """Whether a refusal may only mean that a presigned URL has expired.

    Args:
        status: of the refusal.
        text: the beginning of its body.
        url: the refused URL.
        worked: whether the URL has worked before.
    """
    if status not in (400, 401, 403) or "SignatureDoesNotMatch" in text or "InvalidAccessKeyId" in text:
        return False
    return _is_expired(text) or (status != 400 and (worked or _is_past(url)))


def changed(server: str, what: str) -> Unavailable:
    """Return the error for a file that differs from the listed file."""
    return Unavailable(
        f"What {server} sends is not what was listed: {what}.",
        hint="It may still be uploading, or the upload was cut off; deploy again, or log it again.",
    )


def replaced(server: str, what: str) -> Unavailable:
    """Return the error for a file that was replaced during the transfer."""
    return Unavailable(
        f"The artifact was replaced on {server} while it was read: {what}. Nothing of it is used.",
        hint="Deploy again when the upload is complete; log a new model as a new version.",
    )


def code_and_message(text: str) -> str:
    """Return the code and message of S3's XML, or the message of MLflow's JSON; else the text itself."""
    code, message = _in_xml("Code", text), _in_xml("Message", text)
    said = re.search(r'"message":\s*"(.*?)"', text)
    return ": ".join(filter(None, (code, message))) or (said[1] if said else text)


def _in_xml(name: str, text: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1].strip() if found else ""


def _is_expired(text: str) -> bool:
    return re.search(r"\bexpired|ExpiredToken|RequestExpired|specified time frame", text) is not None


def _is_past(url: str) -> bool:
    """Whether a presigned URL names the end of its validity, and this machine's clock is past it."""
    parts = split(url)
    query = {name.lower(): values[0] for name, values in parse_qs(parts.query if parts else "").items()}
    if re.fullmatch("[0-9]{1,12}", query.get("expires", "")):
        return time.time() > int(query["expires"])
    for vendor in ("x-amz", "x-goog"):
        signed, good_s = query.get(f"{vendor}-date", ""), query.get(f"{vendor}-expires", "")
        if re.fullmatch("[0-9]{8}T[0-9]{6}Z", signed) and re.fullmatch("[0-9]{1,8}", good_s):
            try:
                return time.time() > calendar.timegm(time.strptime(signed, "%Y%m%dT%H%M%SZ")) + int(good_s)
            except (ValueError, OverflowError):
                return False
    return False
