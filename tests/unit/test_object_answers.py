"""What a store's answers mean for a transfer: pure rules."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ml_code.triton_deploy.clients import object_answers
from ml_code.triton_deploy.clients.object_answers import OneStreamOnly, Validator, end_of_range, refusal
from ml_code.triton_deploy.errors import AccessDenied, DeployError, Misconfigured, NotFound, Unavailable

SIZE = 1000
SERVER = "S3 at http://s3"
CREDENTIALS = "Check the keys."


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"ETag": '"abc"', "Last-Modified": "yesterday"}, Validator("ETag", '"abc"')),
        ({"ETag": 'W/"abc"', "Last-Modified": "yesterday"}, Validator("Last-Modified", "yesterday")),
        ({"ETag": '""', "Last-Modified": "yesterday"}, Validator("Last-Modified", "yesterday")),
        ({"ETag": 'W/"abc"'}, None),
        ({"ETag": '"a\r\n b"'}, None),
        ({"ETag": '"' + "a" * 2000}, None),
        ({}, None),
    ],
)
def test_what_tells_contents_apart(headers: dict[str, str], kept: Validator | None) -> None:
    assert Validator.of(headers) == kept


@pytest.mark.parametrize(
    ("first", "condition", "later"),
    [
        (Validator("ETag", '"a"'), {"If-Match": '"a"'}, {"ETag": '"b"'}),
        (Validator("ETag", '"a"'), {"If-Match": '"a"'}, {"Last-Modified": "yesterday"}),
        (
            Validator("Last-Modified", "yesterday"),
            {"If-Unmodified-Since": "yesterday"},
            {"Last-Modified": "today", "ETag": 'W/"a"'},
        ),
    ],
)
def test_another_content_is_refused(
    first: Validator, condition: dict[str, str], later: dict[str, str]
) -> None:
    assert first.condition == condition
    first.require({first.header: first.value}, SERVER)
    with pytest.raises(Unavailable, match="was replaced on S3 at http://s3 while it was read") as failure:
        first.require(later, SERVER)
    assert "Nothing of it is used" in failure.value.message


@pytest.mark.parametrize(
    ("status", "given", "span", "end"),
    [
        (206, "bytes 0-99/1000", (0, 100), 100),
        (206, "bytes 100-199/1000", (100, 200), 200),
        (206, "bytes 100-149/1000", (100, 200), 150),
        (206, "bytes 100-999/1000", (100, 200), 200),
        (206, "bytes 100-199/*", (100, 200), 200),
        (200, "bytes 100-199/1000", (100, 200), 200),
        (200, None, (0, SIZE), SIZE),
    ],
)
def test_ranges_that_fit(status: int, given: str | None, span: tuple[int, int], end: int) -> None:
    headers = {"Content-Range": given} if given else {"Content-Length": str(SIZE)}
    assert end_of_range(status, headers, span, SIZE, SERVER) == end


@pytest.mark.parametrize(
    ("status", "given", "span"),
    [
        (200, "", (0, 100)),
        (206, "", (0, SIZE)),
        (206, "bytes 0-99/1000", (100, 200)),
        (206, "bytes 101-199/1000", (100, 200)),
        (206, "bytes 100-50/1000", (100, 200)),
        (206, "bytes 100-199/" + "9" * 5000, (100, 200)),
        (206, "bytes */1000", (100, 200)),
        (206, "items 1-2/3", (100, 200)),
        (206, "bytes ²-9/1000", (100, 200)),
    ],
)
def test_other_answers_than_ranges_mean_one_stream(status: int, given: str, span: tuple[int, int]) -> None:
    with pytest.raises(OneStreamOnly):
        end_of_range(status, {"Content-Range": given}, span, SIZE, SERVER)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(206, {"Content-Range": "bytes 0-99/1001"}), (200, {"Content-Length": "999"})],
)
def test_another_size_is_an_error(status: int, headers: dict[str, str]) -> None:
    span = (0, 100) if "Content-Range" in headers else (0, SIZE)
    with pytest.raises(Unavailable, match="not what was listed"):
        end_of_range(status, headers, span, SIZE, SERVER)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, aws-chunked"])
def test_a_compressed_answer_is_refused(encoding: str) -> None:
    with pytest.raises(Misconfigured, match="sends the artifact in the encoding"):
        object_answers.require_whole(200, {"Content-Encoding": encoding}, SIZE, SERVER)
    with pytest.raises(Misconfigured, match="encoding"):
        end_of_range(
            206, {"Content-Encoding": encoding, "Content-Range": "bytes 0-99/1000"}, (0, 100), SIZE, SERVER
        )


def test_how_an_object_was_uploaded_does_not_matter() -> None:
    object_answers.require_whole(200, {"Content-Encoding": "aws-chunked"}, SIZE, SERVER)


@pytest.mark.parametrize("length", [{}, {"Content-Length": "512"}])
def test_a_login_page_is_told_as_what_it_is(length: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match="sends a web page") as failure:
        object_answers.require_whole(200, {"Content-Type": "text/html; charset=utf-8"} | length, SIZE, SERVER)
    assert "login page" in failure.value.hint
    # Some name every file so.
    object_answers.require_whole(
        200, {"Content-Type": "text/html", "Content-Length": str(SIZE)}, SIZE, SERVER
    )


REFUSALS = [
    (400, "<Error><Code>InvalidRequest</Code></Error>", Misconfigured, "Check its address"),
    (400, "<Error><Code>ExpiredToken</Code></Error>", AccessDenied, CREDENTIALS),
    (401, "", AccessDenied, CREDENTIALS),
    (403, "<Error><Code>AccessDenied</Code></Error>", AccessDenied, CREDENTIALS),
    (404, "", NotFound, "Register"),
    (410, "", NotFound, "Register"),
    (405, "", Misconfigured, "Check its address"),
    (412, "", Unavailable, "Deploy again"),
    (416, "", Unavailable, "log it again"),
    (500, '{"message": "NoSuchKey"}', NotFound, "Register"),
    (501, "", Misconfigured, "its log"),
    (
        301,
        "<Error><Code>PermanentRedirect</Code><Region>eu-central-1</Region></Error>",
        Misconfigured,
        "AWS_DEFAULT_REGION=eu-central-1",
    ),
    (
        400,
        "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
        Misconfigured,
        "AWS_DEFAULT_REGION=eu-west-1",
    ),
]


@pytest.mark.parametrize(("status", "text", "kind", "hint"), REFUSALS)
def test_what_would_be_the_same_again(status: int, text: str, kind: type[DeployError], hint: str) -> None:
    error = refusal(status, text, "said", SERVER, CREDENTIALS)
    assert type(error) is kind
    assert hint in error.hint
    assert SERVER in error.message


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507, 599])
def test_what_may_pass(status: int) -> None:
    assert refusal(status, "<Error><Code>SlowDown</Code></Error>", "said", SERVER, CREDENTIALS) is None


def test_what_is_shown_of_a_refusal() -> None:
    said = object_answers.code_and_message
    assert said("<Error><Code>SlowDown</Code><Message>Reduce it</Message></Error>") == "SlowDown: Reduce it"
    assert said('{"error_code": "X", "message": "no S3"}') == "no S3"
    assert said("plain") == "plain"


def signed(expires_in_s: int) -> str:
    """Return an address that was signed an hour ago."""
    then = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 3600))
    return f"http://s3/a?X-Amz-Date={then}&X-Amz-Expires={3600 + expires_in_s}&X-Amz-Signature=x"


@pytest.mark.parametrize(
    ("status", "text", "url", "worked", "renewed"),
    [
        (
            403,
            "<Code>AccessDenied</Code><Message>Request has expired</Message>",
            lambda: "http://s3/a",
            False,
            True,
        ),
        (400, "<Code>ExpiredToken</Code>", lambda: "http://s3/a", False, True),
        (403, "<Code>AccessDenied</Code>", lambda: "http://s3/a", True, True),
        (403, "<Code>AccessDenied</Code>", lambda: signed(60), False, False),
        (403, "<Code>AccessDenied</Code>", lambda: signed(-60), False, True),
        (403, "", lambda: f"http://s3/a?Expires={time.time() - 60:.0f}", False, True),
        (403, "", lambda: f"http://s3/a?Expires={time.time() + 60:.0f}", False, False),
        (403, "", lambda: "http://s3/a?X-Amz-Date=99999999T999999Z&X-Amz-Expires=1", False, False),
        (403, "<Code>SignatureDoesNotMatch</Code>", lambda: signed(-60), True, False),
        (403, "<Code>InvalidAccessKeyId</Code>", lambda: "http://s3/a", True, False),
        (400, "<Code>InvalidRequest</Code>", lambda: signed(-60), True, False),
        (404, "expired", lambda: "http://s3/a", True, False),
        (503, "expired", lambda: "http://s3/a", True, False),
    ],
)
def test_when_an_address_is_asked_for_again(
    status: int, text: str, url: Callable[[], str], worked: bool, renewed: bool
) -> None:
    assert object_answers.is_to_be_renewed(status, text, url(), worked=worked) is renewed
