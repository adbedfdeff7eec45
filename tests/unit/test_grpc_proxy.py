"""A proxy of the environment that stands before a Triton is told."""

from __future__ import annotations

import pytest

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.clients.triton.grpc_proxy import proxy_before, told_with_proxy
from ml_code.triton_deploy.errors import DeployError, Misconfigured, NotFound, Unavailable

URL = "triton.example:8001"
AWAY = Unavailable(
    f"Triton at {URL} can't be reached: failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.9:3128: Failed to connect to remote host.",
    hint="Check that it runs.",
)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"http_proxy": "http://user:secret@p:3128/"}, ("http_proxy", "p:3128")),
        ({"http_proxy": "http://a:1", "grpc_proxy": "http://b:2"}, ("grpc_proxy", "b:2")),
        ({"https_proxy": "p:1"}, ("https_proxy", "p:1")),
        ({"https_proxy": "http://p:port"}, ("https_proxy", "of that variable")),
        ({"https_proxy": "http://p:1", "no_proxy": "localhost, .example"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "other"}, ("https_proxy", "p:1")),
        ({"https_proxy": "http://p:1", "no_grpc_proxy": "other", "no_proxy": ".example"}, ("https_proxy", "p:1")),
    ],
)  # fmt: skip
def test_the_proxy_is_found_as_grpc_finds_it(environ: dict[str, str], found: tuple[str, str] | None) -> None:
    assert proxy_before(URL, environ) == found


def test_a_network_may_be_excluded() -> None:
    environ = {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}
    assert proxy_before("10.2.3.4:8001", environ) is None
    assert proxy_before("11.2.3.4:8001", environ) is not None


def test_a_proxy_that_does_not_answer_is_a_setting_that_is_wrong() -> None:
    error = told_with_proxy(URL, AWAY, {"http_proxy": "http://user:secret@proxy.example:3128"})
    assert type(error) is Misconfigured
    assert "variable http_proxy has gRPC go by the proxy proxy.example:3128" in error.message
    assert "add triton.example to no_proxy" in error.hint
    assert "secret" not in str(error)


def test_a_triton_that_is_away_behind_a_proxy_may_be_tried_again() -> None:
    error = told_with_proxy(URL, AWAY, {"http_proxy": "http://proxy.example:8080"})
    assert type(error) is Unavailable
    assert error.message.startswith(AWAY.message)
    assert "proxy.example:8080" in error.message


@pytest.mark.parametrize("error", [NotFound("No.", hint=""), AWAY])
def test_nothing_is_said_where_there_is_no_proxy_or_it_is_not_why(error: DeployError) -> None:
    environ = {} if error is AWAY else {"http_proxy": "http://p:1"}
    assert told_with_proxy(URL, error, environ) is error


def test_grpc_goes_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(Misconfigured, match=r"variable http_proxy has gRPC go by the proxy 127\.0\.0\.1:9"):
        GrpcTriton("127.0.0.1:24003", 5).loaded()
