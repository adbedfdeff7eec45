"""What one call over HTTP may cost at most, whatever the server does, and where it is sent on to."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from ml_code.triton_deploy.clients import http
from ml_code.triton_deploy.clients.http import connections as http_connections
from ml_code.triton_deploy.errors import DeployError, Misconfigured, Unavailable
from tests.support.servers.plain import Say, answer, dripping, plain_server, sent

LIMIT_S = 0.4
SLACK_S = 2.5
"""A busy machine is late; what has no limit goes on for longer than both."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def ask(url: str, method: str = "GET", timeout_s: float = LIMIT_S, **more: object) -> requests.Response:
    session = http.new_session(pool_size=1)
    return http.send(
        session,
        method,
        url,
        timeout_s=timeout_s,
        server=f"It at {http.shown(url)}",
        hint="Look.",
        **more,  # type: ignore[arg-type]
    )


def always(say: Say) -> Callable[[str], Say]:
    return lambda request: say


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def without_end(data: bytes, after: bytes = b"") -> Say:
    def say(connection: socket.socket) -> None:
        connection.sendall(after)
        while True:
            connection.sendall(data)

    return say


DRIPS: dict[str, Say] = {
    "the head": dripping(HEAD, 0.1),
    "the body": dripping(b"x" * 100, 0.1, after=HEAD),
    "sizes of chunks": dripping(b"1\r\nx\r\n" * 100, 0.1, after=CHUNKED),
    "nothing": lambda connection: time.sleep(5),
    "a head without an end": without_end(b"HTTP/1.1 100 X\r\n\r\n" * 999),
}


@pytest.mark.parametrize("say", DRIPS.values(), ids=DRIPS)
def test_an_answer_drop_by_drop_ends_with_the_limit(say: Say) -> None:
    with (
        plain_server(always(say)) as server,
        within(LIMIT_S + SLACK_S),
        pytest.raises(http.SilentServer, match=r"did not answer in time \(0\.4 s for the whole answer\)"),
    ):
        ask(server.url)


def test_a_streamed_body_drop_by_drop_ends_with_its_limit() -> None:
    with plain_server(always(DRIPS["the body"])) as server, within(LIMIT_S + SLACK_S):
        response = ask(server.url, stream=True)
        http.limit(response, LIMIT_S)
        with pytest.raises(http.broken_reads()):
            response.raw.read(2000)


def test_a_name_server_that_hangs_ends_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "_looked_up", lambda host, port: time.sleep(5))
    with within(LIMIT_S + SLACK_S), pytest.raises(Unavailable, match="Failed to resolve 'mlflow'"):
        ask("http://mlflow:5000")


@pytest.mark.parametrize("pause", ["3600", "Wed, 01 Jan 2200 00:00:00 GMT"])
def test_a_server_that_asks_for_an_hour_is_not_waited_for(pause: str) -> None:
    with plain_server(always(answer(503, Retry_After=pause))) as server, within(LIMIT_S + SLACK_S):
        assert ask(server.url).status_code == 503
    assert len(server.requests) == 1


@pytest.mark.parametrize("pause", ["", "0", "-5", "soon", "9" * 400])
def test_a_get_is_repeated_within_the_limit(pause: str) -> None:
    says = iter([answer(503, Retry_After=pause), sent(b""), answer(200, b'{"a": 1}')])
    with plain_server(lambda request: next(says)) as server:
        if pause.startswith("99"):
            assert ask(server.url, timeout_s=2).status_code == 503
        else:
            assert ask(server.url, timeout_s=2).json() == {"a": 1}


def test_what_changes_something_is_sent_once() -> None:
    with plain_server(always(answer(503))) as server:
        assert ask(server.url, "POST", body={}).status_code == 503
    with (
        plain_server(always(sent(b""))) as cutting,
        pytest.raises(Unavailable, match="broke the connection off"),
    ):
        ask(cutting.url, "POST", body={})
    assert len(server.requests) == len(cutting.requests) == 1


def bomb(encoding: str, data: bytes) -> Say:
    return answer(200, data, Content_Encoding=encoding)


ZEROS = b"0" * (40 << 20)
MEMBERS = b"".join(gzip.compress(b"0" * (1 << 20), 1) for _ in range(30))
BOMBS: dict[str, Say] = {
    "gzip": bomb("gzip", gzip.compress(ZEROS, 1)),
    "many members": bomb("gzip", MEMBERS),
    "as it is": without_end(b"y" * 65536, after=b"HTTP/1.1 200 OK\r\n\r\n"),
}


@pytest.mark.parametrize("say", BOMBS.values(), ids=BOMBS)
def test_no_answer_is_larger_than_its_limit(say: Say) -> None:
    with plain_server(always(say)) as server, pytest.raises(Misconfigured, match="more than 16 MiB"):
        ask(server.url, timeout_s=5)


def test_what_is_compressed_is_read() -> None:
    for data in (gzip.compress(b'{"a": 1}'), gzip.compress(b'{"a"') + gzip.compress(b": 1}")):
        with plain_server(always(bomb("gzip", data))) as server:
            assert ask(server.url).json() == {"a": 1}


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_an_encoding_that_nobody_asked_for_is_refused(encoding: str) -> None:
    with (
        plain_server(always(bomb(encoding, b"{}"))) as server,
        pytest.raises(Misconfigured, match="was not asked for"),
    ):
        ask(server.url)


def test_what_is_not_as_compressed_as_it_says_is_refused() -> None:
    with (
        plain_server(always(bomb("gzip", b"{}"))) as server,
        pytest.raises(Misconfigured, match="is not gzip"),
    ):
        ask(server.url)


def test_an_answer_that_is_not_http_is_told_as_that() -> None:
    with (
        plain_server(always(sent(b"\x00\x1b[2J\x00"))) as server,
        pytest.raises(Unavailable, match="something that is not HTTP") as failure,
    ):
        ask(server.url)
    assert "\x1b" not in failure.value.message


@pytest.mark.parametrize("size", [b"-5", b"zz", b"F" * 40, b""])
def test_chunks_of_a_size_that_is_none_are_told_as_that(size: bytes) -> None:
    with plain_server(always(sent(CHUNKED + size + b"\r\nx\r\n"))) as server, pytest.raises(Unavailable):
        ask(server.url)


# Redirects, as they are followed


def to(location: str, status: int = 302) -> Say:
    return answer(status, b"", Location=location)


def test_credentials_stay_with_their_host() -> None:
    with plain_server(always(answer())) as other, plain_server(always(to(f"{other.url}/there"))) as first:
        ask(first.url, headers={"Authorization": "Bearer secret", "X-Own": "1"})
        ask(first.url, auth=("user", "secret-password"))
    assert "Authorization" in first.requests[0]
    assert len(other.requests) == 2
    assert not any("Authorization" in request for request in other.requests)
    assert "X-Own: 1" in other.requests[0]


def test_nothing_that_changes_something_is_sent_to_another_host() -> None:
    for status in (301, 302, 303, 307, 308):
        with (
            plain_server(always(answer())) as other,
            plain_server(always(to(other.url, status))) as first,
            pytest.raises(Misconfigured, match=f"sends the request on to {other.url}") as failure,
        ):
            ask(first.url, "POST", body={"password": "secret"})
        assert other.requests == []
        assert "secret" not in str(failure.value)


def test_a_circle_ends() -> None:
    with (
        plain_server(always(to("/again"))) as server,
        pytest.raises(Misconfigured, match="more than 3 times"),
    ):
        ask(server.url)
    assert len(server.requests) == 4


def test_another_region_is_an_error_that_names_it() -> None:
    region = {"x-amz-bucket-region": "eu-central-1"}
    for status in (301, 307):
        say = answer(status, b"<Error/>", Location="https://elsewhere.example/", **region)
        with (
            plain_server(always(say)) as server,
            pytest.raises(Misconfigured, match="eu-central-1") as failure,
        ):
            ask(server.url)
        assert "AWS_DEFAULT_REGION=eu-central-1" in failure.value.hint


# The environment


def test_a_proxy_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1")
    with pytest.raises(
        Misconfigured, match=r"through the proxy http://127\.0\.0\.1:1, which http_proxy names"
    ) as failure:
        ask("http://mlflow.test/?a=signature")
    assert "Add mlflow.test to NO_PROXY" in failure.value.hint
    assert "secret" not in str(failure.value)
    assert "signature" not in str(failure.value)
    with plain_server(always(answer(403, b""))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(Misconfigured, match="it answers 403 X"):
            ask("https://mlflow.test/")


def test_what_a_proxy_answers_is_told_as_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    says = iter(
        [answer(407, b""), *[answer(503, b"<html><title>no way</title></html>")] * 4, answer(200, b"<html>")]
    )
    with plain_server(lambda request: next(says)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(Misconfigured, match=r"wants a user and a password \(407\)") as failure:
            ask("http://mlflow.test/")
        assert "http://user:password@host:port" in failure.value.hint
        refused = ask("http://mlflow.test/", timeout_s=3)
        assert http.explanation(refused) == f"no way (asked through the proxy {proxy.url} of http_proxy)"
        with pytest.raises(Misconfigured, match=rf"a web page \(asked through the proxy {proxy.url}"):
            http.answer_of(ask("http://mlflow.test/"), "MLflow", "that")


def test_a_token_that_no_header_takes_is_not_shown() -> None:
    with plain_server(always(answer(200, b"{}"))) as server:
        for token in ("secret\nsecret", "secret ☺ secret"):
            with pytest.raises(Misconfigured, match="a character that no header can have") as failure:
                ask(server.url, headers={"Authorization": f"Bearer {token}"})
            assert "secret" not in str(failure.value)
        assert ask(server.url, auth=("jürgen", "☺")).status_code == 200


@pytest.mark.parametrize("lengths", ["5, 6", "5\r\nContent-Length: 6"])
def test_two_lengths_of_one_answer_are_not_http(lengths: str) -> None:
    data = f"HTTP/1.1 200 OK\r\nContent-Length: {lengths}\r\n\r\nxxxxx".encode()
    with plain_server(always(sent(data))) as server, pytest.raises(Unavailable, match="not HTTP"):
        ask(server.url)


def test_a_netrc_gives_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    (netrc := tmp_path / "netrc").write_text("default login user password secret\n")  # type: ignore[operator]
    monkeypatch.setenv("NETRC", str(netrc))
    with plain_server(always(answer())) as server:
        ask(server.url)
        ask(server.url.replace("//", "//user:secret@"))
    assert not any("Authorization" in request for request in server.requests)


@pytest.mark.parametrize(
    "url", ["http://", "http://host:99999", "http://[zz/", "ftp://host", "http://a..b/", ""]
)
def test_an_address_that_is_none_is_the_operators_error(url: str) -> None:
    with pytest.raises(DeployError) as failure:
        ask(url)
    assert failure.value.exit_code in (3, 5)


def test_a_host_with_several_addresses_is_reached_by_any(monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_server(always(answer())) as server:
        port = int(server.url.rpartition(":")[2])
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        both = [(*kind, ("127.0.0.1", 1)), (*kind, ("127.0.0.1", port))]
        monkeypatch.setattr(http_connections, "_looked_up", lambda host, asked: both)
        assert ask(f"http://mlflow.test:{port}").status_code == 200
