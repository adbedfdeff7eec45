"""Where a request may be sent on to, and what goes along."""

from __future__ import annotations

import pytest

from ml_code.triton_deploy.clients.http.redirects import Request, onward
from ml_code.triton_deploy.errors import Misconfigured

HOME = "http://mlflow.test:5000/api?q=secret"
OURS = {"Authorization": "Bearer secret", "X-Webhook-Signature": "secret", "Accept": "*/*"}


def sent_on(url: str, location: str, *, method: str = "GET", status: int = 302) -> Request | None:
    return onward(Request(method=method, url=url, headers=OURS, auth=("u", "p")), status, location, "It")


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (HOME, "/other"),
        (HOME, "other?x=1"),
        (HOME, "http://mlflow.test:5000/other"),
        (HOME, "http://MLFLOW.test:5000/other"),
        (HOME, "https://mlflow.test/other"),
        (HOME, "https://mlflow.test:8443/other"),
        ("http://mlflow.test/", "http://mlflow.test:80/other"),
        ("https://mlflow.test/", "https://mlflow.test:443/other"),
    ],
)
def test_credentials_go_to_the_same_host(url: str, location: str) -> None:
    for method, status in (("GET", 301), ("GET", 302), ("GET", 307), ("POST", 307), ("PATCH", 308)):
        request = sent_on(url, location, method=method, status=status)
        assert request is not None
        assert request.has_credentials
        assert request.method == method


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (HOME, "http://mlflow.test:5001/"),
        (HOME, "http://mlflow.test/"),
        (HOME, "http://other.test:5000/"),
        (HOME, "https://other.test/"),
        (HOME, "//other.test/"),
        ("https://mlflow.test/", "https://mlflow.test:8443/"),
        ("https://mlflow.test/", "https://mlflow.test.evil.test/"),
        (HOME, "http://u:p@mlflow.test:5001/"),
    ],
)
def test_what_reads_goes_elsewhere_without_them(url: str, location: str) -> None:
    request = sent_on(url, location)
    assert request is not None
    assert not request.has_credentials
    assert request.headers == {"Accept": "*/*"}
    assert "@" not in request.url
    with pytest.raises(Misconfigured, match="followed only to the same server"):
        sent_on(url, location, method="POST", status=307)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (HOME, "file:///etc/passwd"),
        (HOME, "ftp://mlflow.test/"),
        (HOME, "gopher:x"),
        (HOME, "http://host:99999/?secret"),
        (HOME, "http://[zz/"),
        ("https://mlflow.test/", "http://mlflow.test/"),
        ("https://mlflow.test/", "http://other.test/?signature=secret"),
    ],
)
def test_nothing_goes_where_it_may_not(url: str, location: str) -> None:
    with pytest.raises(Misconfigured, match="is not followed") as failure:
        sent_on(url, location)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("status", [301, 302, 303])
def test_what_changes_something_is_not_turned_into_something_else(status: int) -> None:
    with pytest.raises(Misconfigured, match="a POST is followed only to the same server"):
        sent_on(HOME, "/other", method="POST", status=status)


@pytest.mark.parametrize(
    ("status", "location"), [(200, "/x"), (304, "/x"), (301, None), (300, "/x"), (401, "/x")]
)
def test_an_answer_is_an_answer(status: int, location: str | None) -> None:
    assert onward(Request(method="GET", url=HOME), status, location, "It") is None
