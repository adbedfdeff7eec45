"""Whatever stands where S3 should be, and whatever the environment says of it: one clear error, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest

from ml_code.triton_deploy.clients import listing
from ml_code.triton_deploy.clients.artifacts import S3Store
from ml_code.triton_deploy.errors import AccessDenied, DeployError, Misconfigured, NotFound, Unavailable
from ml_code.triton_deploy.settings import Settings
from tests.support.servers.plain import Plain, Say, answer, plain_server
from tests.support.settings import changed

URI = "s3://bucket/place"
SECRET = "a-very-secret-key"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "AWS_PROFILE",
        "AWS_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "MLFLOW_S3_IGNORE_TLS",
        "AWS_CONFIG_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "worker")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def store(server: Plain) -> S3Store:
    return S3Store(changed(Settings(), transfer__s3_endpoint_url=server.url, transfer__timeout_s=2.0))


def page(objects: dict[str, str], token: str = "") -> bytes:
    more = (
        f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        if token
        else ""
    )
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>" for key, size in objects.items()
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return (
        f'<?xml version="1.0"?><ListBucketResult xmlns="{space}">{entries}{more}</ListBucketResult>'.encode()
    )


def says(body: bytes, status: int = 200) -> Callable[[str], Say]:
    return lambda request: answer(status, body)


def token_of(request: str) -> str:
    return parse_qs(urlsplit(request.split()[1]).query).get("continuation-token", [""])[0]


def test_pages_are_put_together_in_order() -> None:
    def say(request: str) -> Say:
        first = not token_of(request)
        return answer(
            200, page({"place/b": "2", "place/": "0"}, "t+/=") if first else page({"place/a/c": "1"})
        )

    with plain_server(say) as server:
        files = store(server).list_files(URI)
    assert [(file.path, file.size_bytes) for file in files] == [("a/c", 1), ("b", 2)]
    assert [token_of(request) for request in server.requests] == ["", "t+/="]
    assert not any(SECRET in request for request in server.requests)


LOGIN = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
ENTITIES = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult>&a;</ListBucketResult>'
STRANGE: dict[str, tuple[bytes, str]] = {
    "a login page": (LOGIN, "it is no listing of S3"),
    "JSON": (b"{}", "it is no listing of S3"),
    "nothing": (b"", "it is no listing of S3"),
    "another document": (b"<Other/>", "it is no listing of S3"),
    "entities": (ENTITIES, "it is no listing of S3"),
    "a cut": (page({"place/a": "1"})[:-4], "it is no listing of S3"),
    "elements without an end": (
        b"<ListBucketResult>" + b"<a/>" * 300_000 + b"</ListBucketResult>",
        "it is no listing of S3",
    ),
    "depth": (b"<a>" * 90_000 + b"</a>" * 90_000, "it is no listing of S3"),
    "a size that is none": (page({"place/a": "big"}), "has no key, or no size"),
    "less than nothing": (page({"place/a": "-1"}), "has no key, or no size"),
    "no name": (page({"": "1"}), "has no key, or no size"),
    "another place": (page({"elsewhere/a": "1"}), "not below 'place/'"),
    "a way out": (page({"place/../a": "1"}), "leads out of it or is none"),
    "an absolute path": (page({"place//a": "1"}), "leads out of it or is none"),
    "a control character": (page({"place/a\x85b": "1"}), "leads out of it or is none"),
    "no next page": (
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        "does not say where",
    ),
}


@pytest.mark.parametrize(("body", "why"), STRANGE.values(), ids=STRANGE)
def test_a_listing_of_another_form_is_one_clear_error(body: bytes, why: str) -> None:
    with plain_server(says(body)) as server, pytest.raises(Misconfigured, match=why) as failure:
        store(server).list_files(URI)
    assert server.url in failure.value.message
    assert len(failure.value.message) < 600


def test_pages_without_an_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        plain_server(says(page({}, "again"))) as server,
        pytest.raises(Misconfigured, match="the same page twice"),
    ):
        store(server).list_files(URI)
    assert len(server.requests) == 2
    monkeypatch.setattr(listing, "MOST_PAGES", 10)
    tokens = iter(range(100))
    with (
        plain_server(lambda request: answer(200, page({}, f"t{next(tokens)}"))) as server,
        pytest.raises(Misconfigured, match="more than 10 pages"),
    ):
        store(server).list_files(URI)


def error(code: str, message: str = "no", **fields: str) -> bytes:
    more = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    return (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()
    )


@pytest.mark.parametrize(
    ("status", "body", "kind", "says_", "hint"),
    [
        (
            301,
            error("PermanentRedirect", Region="eu-west-1"),
            Misconfigured,
            "in the region eu-west-1",
            "AWS_DEFAULT_REGION=eu-west-1",
        ),
        (
            400,
            error("AuthorizationHeaderMalformed", Region="eu-west-1"),
            Misconfigured,
            "eu-west-1",
            "AWS_DEFAULT_REGION",
        ),
        (403, error("AccessDenied"), AccessDenied, "denies access", "AWS_SECRET_ACCESS_KEY"),
        (400, error("InvalidAccessKeyId"), AccessDenied, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, error("RequestTimeTooSkewed"), Misconfigured, "this machine's time", "clock"),
        (404, error("NoSuchBucket"), NotFound, "no bucket", "init --bucket"),
        (404, LOGIN, Misconfigured, "as S3 does (404): Sign in", "MLFLOW_S3_ENDPOINT_URL"),
        (302, b"", Misconfigured, "as S3 does (302)", "MLFLOW_S3_ENDPOINT_URL"),
        (503, error("SlowDown"), Unavailable, "failed on s3://bucket/place (SlowDown)", "log"),
        (429, b"", Unavailable, "(429)", "log"),
    ],
)
def test_a_refusal_says_what_to_do(
    status: int, body: bytes, kind: type[DeployError], says_: str, hint: str
) -> None:
    with plain_server(says(body, status)) as server, pytest.raises(kind) as failure:
        store(server).list_files(URI)
    assert says_ in failure.value.message
    assert hint in failure.value.hint
    assert "Signature" not in str(failure.value)


# What the environment says


def test_a_profile_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prod")
    with pytest.raises(Misconfigured, match=r"The config profile \(prod\) could not be found") as failure:
        S3Store(Settings())
    assert "AWS_PROFILE" in failure.value.hint


def test_a_region_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us east 1")
    with pytest.raises(Misconfigured, match="us east 1") as failure:
        S3Store(Settings())
    assert "AWS_DEFAULT_REGION" in failure.value.hint


def test_a_file_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (broken := tmp_path / "config").write_text("this is no ini\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(broken))
    with pytest.raises(Misconfigured, match=str(broken)) as failure:
        S3Store(Settings())
    assert "AWS_CONFIG_FILE" in failure.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_MAX_ATTEMPTS", "many"), ("AWS_RETRY_MODE", "never"), ("AWS_ENDPOINT_URL", "not a url")],
)
def test_another_variable_that_cant_be_is_an_error_of_the_operator(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with suppress(Misconfigured):
        S3Store(Settings()).source(URI, "f")


def test_an_address_can_be_asked_for_again() -> None:
    source = S3Store(changed(Settings(), transfer__s3_endpoint_url="http://127.0.0.1:1")).source(URI, "f")
    assert source.renew is not None
    assert urlsplit(source.renew().url).path == urlsplit(source.url).path == "/bucket/place/f"
    assert "Signature" not in repr(source)
