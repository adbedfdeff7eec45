"""What a store answers when it is asked for a file, judged: is it of the file that was listed, and of the same one as before?

Pure rules: no I/O. What may pass is an ``Interruption``, to be repeated; everything else is an error that a repeat would not change.
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
"""``aws-chunked`` says how an object was uploaded; some servers keep it, and send the plain bytes all the same."""


class Interruption(Exception):
    """An attempt failed in a way that may pass.

    Args:
        problem: the error, if nothing helps.
        asked_s: how long the server asked to wait, seconds.
    """

    def __init__(self, problem: DeployError, asked_s: float = 0.0) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.asked_s = asked_s


class OneStreamOnly(Exception):
    """The ranges of this file can't be put together: they are not answered, or nothing says that they are of one object."""


@dataclass(frozen=True)
class Validator:
    """What tells one content of an object from the next: a strong ``ETag``, else ``Last-Modified``."""

    header: str
    value: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """Return that of an answer; None when it has none that says anything."""
        for header in ("ETag", "Last-Modified"):
            value = headers.get(header, "").strip()
            if re.fullmatch(r"[\x20-\x7e]{3,1000}", value) and not value.startswith("W/"):
                return cls(header, value)
        return None

    @property
    def condition(self) -> dict[str, str]:
        """Headers with which a server answers 412 once the object is another one."""
        return {"If-Match" if self.header == "ETag" else "If-Unmodified-Since": self.value}

    def require(self, headers: Mapping[str, str], server: str) -> None:
        """Raise Unavailable when an answer is of another content: not every server looks at the condition."""
        value = headers.get(self.header, "").strip()
        if value != self.value:
            raise replaced(server, f"its {self.header} was {self.value} and is now {value or 'missing'}")


def end_of_range(
    status: int, headers: Mapping[str, str], span: tuple[int, int], size: int, server: str
) -> int:
    """Return up to which byte of the file an answer to a ranged read goes.

    Args:
        status: of the answer, one of ``SOUND``.
        headers: of the answer.
        span: first byte that was asked for, and the one after the last.
        size: what was listed.
        server: what to call the server in a message.

    Raises:
        OneStreamOnly: it answered something other than the range.
        Unavailable: the file has another size than was listed.
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
    """Raise what ``end_of_range`` does when an answer is not the whole file; see there."""
    require_plain(headers, server)
    if status != 200 and headers.get("Content-Range", "").strip() != f"bytes 0-{size - 1}/{size}":
        raise changed(server, f"it answers a part of it ({status}) where the whole was asked for")
    require_length(headers, size, server)


def require_length(headers: Mapping[str, str], size: int, server: str) -> None:
    """Raise Unavailable when an answer says that it has another length; Misconfigured when it is a page for people."""
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
    """Raise Misconfigured when an answer is compressed: what is stored and hashed must be the bytes of the file."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in PLAIN_ENCODINGS:
        raise Misconfigured(
            f"{server} sends the artifact in the encoding {encoding[:40]!r}, although its plain bytes were asked for.",
            hint="Turn off compression in the server, or in the proxy before it; a file that was stored with that encoding has to be logged again without it.",
        )


def refusal(status: int, text: str, said: str, server: str, credentials: str) -> DeployError | None:
    """Return the error for an answer that is no file and would be the same again; None for one that may pass.

    Args:
        status: of the answer.
        text: how its body begins.
        said: what to show of it.
        server: what to call the server in a message.
        credentials: what to do about credentials that it does not take.
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
    """Return the error for an answer that may pass, should it not."""
    reason = f"({status}) {said}".rstrip(" .")
    return Unavailable(f"{server} failed to hand out the artifact: {reason}.", hint=AGAIN)


def is_to_be_renewed(status: int, text: str, url: str, *, worked: bool) -> bool:
    """Whether a refusal may mean no more than that a presigned URL has served its time.

    Args:
        status: of the refusal.
        text: how its body begins.
        url: what was asked.
        worked: whether it was answered before.
    """
    if status not in (400, 401, 403) or "SignatureDoesNotMatch" in text or "InvalidAccessKeyId" in text:
        return False
    return _is_expired(text) or (status != 400 and (worked or _is_past(url)))


def changed(server: str, what: str) -> Unavailable:
    """Return the error for a file that is not the one that was listed."""
    return Unavailable(
        f"What {server} sends is not what was listed: {what}.",
        hint="It may still be uploading, or the upload was cut off; deploy again, or log it again.",
    )


def replaced(server: str, what: str) -> Unavailable:
    """Return the error for a file that became another one while it was read."""
    return Unavailable(
        f"The artifact was replaced on {server} while it was read: {what}. Nothing of it is used.",
        hint="Deploy again when the upload is complete; log a new model as a new version.",
    )


def code_and_message(text: str) -> str:
    """Return what S3's XML or MLflow's JSON says; else the text itself."""
    code, message = _in_xml("Code", text), _in_xml("Message", text)
    said = re.search(r'"message":\s*"(.*?)"', text)
    return ": ".join(filter(None, (code, message))) or (said[1] if said else text)


def _in_xml(name: str, text: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1].strip() if found else ""


def _is_expired(text: str) -> bool:
    return re.search(r"\bexpired|ExpiredToken|RequestExpired|specified time frame", text) is not None


def _is_past(url: str) -> bool:
    """Whether a presigned URL names a time until which it is good, and that is over by our clock."""
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
