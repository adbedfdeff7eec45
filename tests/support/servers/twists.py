"""Twists of any answer on its way; twisted_content.py has the twists of the content.

A twist is a function that answers in place of the server. It gets a generator of its own for all that it
chooses.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.support.servers.hostile_messages import JSON, Answer, Asked
from tests.support.servers.hostile_site import HostileSite
from tests.support.servers.wire import Wire, head_of

MIB = 1 << 20


@dataclass(frozen=True)
class Scene:
    """All that a twist works with."""

    site: HostileSite
    asked: Asked
    answer: Answer
    wire: Wire
    random: random.Random


Play = Callable[[Scene], None]

ANY: dict[str, Play] = {}
"""Twists of any answer, by name."""


def twist(name: str, known: dict[str, Play] = ANY) -> Callable[[Play], Play]:
    def keep(play: Play) -> Play:
        assert name not in known
        known[name] = play
        return play

    return keep


def sent(scene: Scene, answer: Answer) -> None:
    scene.wire.answer(answer.status, answer.headers, answer.body)


# Other words

LOGIN = (
    b"<!DOCTYPE html><html><head><title>Sign in - Example SSO</title></head><body><form method=post>"
    b"<input name=user><input type=password name=password></form></body></html>"
)
STATUSES = (
    400,
    401,
    403,
    404,
    405,
    407,
    409,
    410,
    411,
    412,
    413,
    416,
    418,
    421,
    422,
    425,
    428,
    429,
    431,
    451,
)
FAILURES = (500, 501, 502, 503, 504, 505, 507, 511, 520, 529, 599)
PAUSES = (
    "3600",
    "0",
    "1",
    "-5",
    "1e9",
    "soon",
    "Fri, 31 Dec 2049 23:59:59 GMT",
    "99999999999999999999",
    "0.5",
    "",
)


@twist("login page")
def _login(scene: Scene) -> None:
    sent(scene, Answer(200, {"Content-Type": "text/html"}, LOGIN))


@twist("other bytes")
def _other_bytes(scene: Scene) -> None:
    bodies: tuple[bytes, ...] = (
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"0",
        b"true",
        b"NaN",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe\x00junk",
        b"\xef\xbb\xbf{}",
        '{"model_version": null}'.encode("utf-16"),
        b"9" * 5_000,
        b'{"model_version": ' + b"9" * 5_000 + b"}",
        b"\x00" * 1000,
        b"<?xml version='1.0'?><a/>",
        b"\x1b[2J\x1b]0;owned\x07 not what you asked for",
        scene.answer.body[: len(scene.answer.body) // 2],
        scene.answer.body * 2,
    )
    kind = scene.random.choice(
        (scene.answer.headers.get("Content-Type", JSON), JSON, "text/plain", "", "a" * 300)
    )
    headers = {"Content-Type": kind} if kind else {}
    sent(scene, Answer(200, headers, scene.random.choice(bodies)))


@twist("refusal")
def _refusal(scene: Scene) -> None:
    code = scene.random.choice(
        ("INTERNAL_ERROR", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "X" * 500)
    )
    message: object = scene.random.choice(
        ("no", "not found alias", "", None, 7, ["a"], {"b": 1}, "\x1b[31m\u202e" * 20, "y" * MIB)
    )
    bodies = (
        Answer.json({"error_code": code, "message": message}),
        Answer.failure(code, "no", 200),
        Answer(200, {"Content-Type": "text/html"}, LOGIN),
        Answer(200, {}, b""),
        Answer.json([code]),
    )
    answer = scene.random.choice(bodies)
    sent(scene, replace(answer, status=scene.random.choice(STATUSES + FAILURES)))


@twist("busy")
def _busy(scene: Scene) -> None:
    answer = Answer.failure("SlowDown", "Please reduce your request rate.", scene.random.choice((429, 503)))
    sent(scene, answer.changed(Retry_After=scene.random.choice(PAUSES)))


@twist("busy for an hour")
def _busy_for_an_hour(scene: Scene) -> None:
    sent(
        scene, Answer.failure("SlowDown", "Please reduce your request rate.", 503).changed(Retry_After="3600")
    )


@twist("echo")
def _echo(scene: Scene) -> None:
    """A proxy that says what it was asked, headers and all."""
    asked = scene.asked
    said = f"{asked.method} {asked.target} " + " ".join(
        f"{name}: {value}" for name, value in asked.headers.items()
    )
    basic = asked.headers.get("authorization", "").removeprefix("Basic ")
    if basic != asked.headers.get("authorization"):
        said += f" is {base64.b64decode(basic).decode(errors='replace')}"
    status = scene.random.choice((200, 400, 401, 403, 404, 500, 502))
    html = Answer(status, {"Content-Type": "text/html"}, f"<title>{said}</title>".encode())
    xml = Answer.failure("SignatureDoesNotMatch", said.replace("&", "&amp;"), status)
    sent(scene, scene.random.choice((html, xml, Answer.json({"error_code": "X", "message": said}, status))))


@twist("odd first line")
def _odd_first_line(scene: Scene) -> None:
    lines = (
        "HTTP/1.1 999 Odd",
        "HTTP/1.1 99 Odd",
        "HTTP/1.1 -1 Odd",
        "HTTP/1.1 abc Odd",
        "HTTP/9.9 200 OK",
        "HTTP/1.1",
        "ICY 200 OK",
        "SSH-2.0-OpenSSH_9.2",
        "\x15\x03\x01\x00\x02\x02F",
        "",
        "HTTP/1.1 200 " + "OK" * 40_000,
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 101 Switching Protocols",
    )
    scene.wire.answer(scene.random.choice(lines), scene.answer.headers, scene.answer.body)
    scene.wire.close()


@twist("odd headers")
def _odd_headers(scene: Scene) -> None:
    many = {f"X-{number}": "y" * 50 for number in range(scene.random.choice((120, 5000)))}
    odd: tuple[Mapping[str, str], ...] = (
        many,
        {"X-Long": "y" * scene.random.choice((70_000, 3 * MIB))},
        {"Content-Length": "-1"},
        {"Content-Length": "1e3"},
        {"Content-Length": "9" * 30},
        {"Content-Length": "0"},
        {"Content-Type": "application/json; charset=utf-7"},
        {"Content-Type": "application/json; charset=nonsense-\x1b[31m"},
        {"Set-Cookie": "a=b; Domain=.com", "Content-Type": "text/html; charset=\xff"},
        {"Transfer-Encoding": "gzip, chunked"},
        {"X bad": "name", "": "empty"},
        {"Connection": "upgrade", "Upgrade": "h2c"},
        {"Content-Range": "bytes */*"},
    )
    scene.wire.answer(200, {**scene.answer.headers, **scene.random.choice(odd)}, scene.answer.body)
    scene.wire.close()


# Connections


@twist("reset")
def _reset(scene: Scene) -> None:
    scene.wire.reset()


@twist("hang up")
def _hang_up(scene: Scene) -> None:
    scene.wire.close()


@twist("cut")
def _cut(scene: Scene) -> None:
    """Ends in the body, or in the head."""
    body = scene.answer.body
    head = head_of(scene.answer.status, {**scene.answer.headers, "Content-Length": str(len(body))})
    scene.wire.send((head + body)[: scene.random.randrange(1, len(head) + max(1, len(body)))])
    scene.random.choice((scene.wire.close, scene.wire.reset))()


@twist("broken chunks")
def _broken_chunks(scene: Scene) -> None:
    scene.wire.head(200, {**scene.answer.headers, "Transfer-Encoding": "chunked"})
    broken = (
        b"zz\r\nabc\r\n",
        b"-5\r\nabc\r\n",
        b"5\r\nab",
        b"\r\n\r\n",
        b"f" * 20 + b"\r\n",
        b"1" * 70_000,
        b"5\nabcde0\n\n",
    )
    scene.wire.send(scene.random.choice(broken))
    scene.wire.close()


# Redirects

MOVED = (301, 302, 303, 307, 308)


@twist("redirect")
def _redirect(scene: Scene) -> None:
    site, asked = scene.site, scene.asked
    here, away = site.url(asked.server), site.url("elsewhere")
    target = asked.target
    secure = here.replace("http:", "https:", 1)
    places = (
        f"{here}{target}",
        target,
        f"{away}{target}",
        f"{away}/",
        f"{secure}{target}",
        f"{away.replace('http:', 'https:', 1)}{target}",
        here.replace("127.0.0.1", "localhost") + target,
        f"{away.replace('//', '//user:password@')}{target}",
        f"{away.replace('http:', '')}{target}",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "data:application/json,{}",
        "javascript:alert(1)",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:1/",
        "http://169.254.169.254.invalid/latest",
        "",
        "\x00\x01",
        "/" + "x" * 70_000,
        "//",
        "http:///nowhere",
        "?",
        "http://\u0000\u00ff/",
    )
    headers = {"Location": scene.random.choice(places), "Content-Type": "text/html"}
    if scene.random.random() < 0.05:
        del headers["Location"]
    sent(scene, Answer(scene.random.choice(MOVED), headers, b"moved"))


@twist("chain of redirects")
def _chain(scene: Scene) -> None:
    mark = "&" if "?" in scene.asked.target else "?"
    place = f"{scene.asked.target}{mark}again={scene.asked.number}"
    sent(scene, Answer(scene.random.choice((302, 307)), {"Location": place}, b"moved"))
