"""Whose certificates hold, by which variables, and what is said of a certificate that is not trusted."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients import http
from ml_code.triton_deploy.clients.http.tls import Kind, Trust, trust
from ml_code.triton_deploy.errors import Misconfigured
from tests.support.servers.certificates import Authority
from tests.support.servers.plain import Plain, answer, plain_server


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture
def bundle(ours: Authority) -> str:
    return str(ours.bundle)


def test_nothing_set_trusts_what_everybody_trusts() -> None:
    for kind in ("mlflow", "s3", "other"):
        assert trust(kind, {}) == Trust(kind, True, None)


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        ("mlflow", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]),
        ("s3", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]),
        ("other", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]),
    ],
)
def test_the_nearest_variable_holds(kind: Kind, variables: list[str], bundle: str, tmp_path: Path) -> None:
    everyone = ["MLFLOW_TRACKING_SERVER_CERT_PATH", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
    for variable in everyone:
        held = trust(kind, {variable: bundle}).verify
        assert held == (bundle if variable in variables else True), variable
    environ = dict.fromkeys(variables[1:], bundle) | {variables[0]: str(tmp_path)}
    assert trust(kind, environ).verify == str(tmp_path), "a folder of certificates"


def test_the_check_can_be_turned_off_for_one_server_alone(bundle: str) -> None:
    environ = {"MLFLOW_TRACKING_INSECURE_TLS": "true", "REQUESTS_CA_BUNDLE": bundle}
    assert trust("mlflow", environ).verify is False
    assert trust("s3", environ).verify == bundle
    environ = {"MLFLOW_S3_IGNORE_TLS": "1", "AWS_CA_BUNDLE": bundle}
    assert trust("s3", environ).verify is False
    assert trust("mlflow", environ).verify is True
    assert trust("mlflow", {"MLFLOW_TRACKING_INSECURE_TLS": "False"}).verify is True


def test_a_client_certificate_is_shown_to_mlflow_alone(ours: Authority) -> None:
    environ = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": str(ours.client())}
    assert trust("mlflow", environ).cert == environ["MLFLOW_TRACKING_CLIENT_CERT_PATH"]
    assert trust("s3", environ).cert is trust("other", environ).cert is None


def test_what_cant_be_used_is_said_before_anything_is_asked(tmp_path: Path, bundle: str) -> None:
    (empty := tmp_path / "empty.pem").touch()
    wrong: list[tuple[Kind, dict[str, str], str]] = [
        (
            "other",
            {"REQUESTS_CA_BUNDLE": "/nowhere.pem"},
            "REQUESTS_CA_BUNDLE='/nowhere.pem' can't be used: No such file",
        ),
        ("s3", {"AWS_CA_BUNDLE": str(empty)}, "does not hold certificates in PEM form"),
        ("mlflow", {"MLFLOW_TRACKING_CLIENT_CERT_PATH": bundle}, "does not hold a certificate and its key"),
        ("mlflow", {"MLFLOW_TRACKING_CLIENT_CERT_PATH": "/nowhere.pem"}, "No such file"),
        ("mlflow", {"MLFLOW_TRACKING_INSECURE_TLS": "perhaps"}, "is neither true nor false"),
        (
            "mlflow",
            {"MLFLOW_TRACKING_INSECURE_TLS": "true", "MLFLOW_TRACKING_SERVER_CERT_PATH": bundle},
            "says not to check",
        ),
    ]
    for kind, environ, why in wrong:
        with pytest.raises(Misconfigured, match=why):
            trust(kind, environ)


def ask(server: Plain, held: Trust, host: str = "127.0.0.1") -> int:
    url = server.url.replace("127.0.0.1", host)
    session = http.new_session(pool_size=1, trust=held)
    return http.send(session, "GET", url, timeout_s=3, server=f"It at {url}", hint="Look.").status_code


def serving(context: ssl.SSLContext) -> object:
    return plain_server(lambda request: answer(), context)


Context = Callable[[Authority], ssl.SSLContext]
UNTRUSTED: list[tuple[str, Context, Kind, str, str]] = [
    (
        "another authority",
        lambda ours: ours.server("127.0.0.1"),
        "mlflow",
        "unable to get local issuer",
        "MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    (
        "another authority",
        lambda ours: ours.server("127.0.0.1"),
        "s3",
        "unable to get local issuer",
        "AWS_CA_BUNDLE",
    ),
    (
        "another authority",
        lambda ours: ours.server("127.0.0.1"),
        "other",
        "unable to get local issuer",
        "REQUESTS_CA_BUNDLE",
    ),
]


@pytest.mark.parametrize(("_", "made", "kind", "why", "hint"), UNTRUSTED)
def test_a_certificate_that_nobody_vouches_for_is_told_as_that(
    ours: Authority, _: str, made: Context, kind: Kind, why: str, hint: str
) -> None:
    with serving(made(ours)) as server, pytest.raises(Misconfigured, match=why) as failure:  # type: ignore[attr-defined]
        ask(server, Trust(kind))
    assert hint in failure.value.hint
    assert failure.value.exit_code == 3


def test_another_name_and_an_old_certificate_are_told_apart(ours: Authority, bundle: str) -> None:
    held = Trust("mlflow", bundle)
    with serving(ours.server("127.0.0.1", ended=True)) as server:  # type: ignore[attr-defined]
        with pytest.raises(Misconfigured, match="certificate has expired") as failure:
            ask(server, held)
        assert "Renew" in failure.value.hint
    with serving(ours.server("mlflow.example")) as server:  # type: ignore[attr-defined]
        with pytest.raises(
            Misconfigured, match=r"IP address mismatch|not valid for '127\.0\.0\.1'"
        ) as failure:
            ask(server, held)
        assert "a name that the certificate has" in failure.value.hint


def test_what_is_trusted_is_asked(ours: Authority, bundle: str, recwarn: pytest.WarningsRecorder) -> None:
    with serving(ours.server("127.0.0.1", "localhost")) as server:  # type: ignore[attr-defined]
        assert ask(server, Trust("mlflow", bundle)) == 200
        assert ask(server, Trust("mlflow", bundle), "localhost") == 200
        assert ask(server, Trust("mlflow", verify=False)) == 200
    assert [str(warning.message) for warning in recwarn] == []


def test_requests_ca_bundle_changes_nothing_of_what_a_server_has(
    ours: Authority, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with serving(ours.server("127.0.0.1")) as server, pytest.raises(Misconfigured):  # type: ignore[attr-defined]
        ask(server, Trust("s3", verify=True))


def test_a_client_certificate_that_is_asked_for(ours: Authority, bundle: str) -> None:
    with serving(ours.server("127.0.0.1", asks=ours)) as server:  # type: ignore[attr-defined]
        assert ask(server, Trust("mlflow", bundle, str(ours.client()))) == 200
        with pytest.raises(Misconfigured, match="refuses this client's TLS") as failure:
            ask(server, Trust("mlflow", bundle))
        assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in failure.value.hint
        with pytest.raises(Misconfigured, match="refuses this client's TLS"):
            ask(server, Trust("s3", bundle))


def test_http_where_tls_is_asked_for() -> None:
    with plain_server(lambda request: answer()) as server:
        server.url = server.url.replace("http", "https")
        with pytest.raises(Misconfigured, match="does not answer with TLS") as failure:
            ask(server, Trust())
    assert "http://" in failure.value.hint
