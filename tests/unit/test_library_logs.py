"""No library says in a log what an address holds, at whatever level a process logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ml_code.triton_deploy.clients import http
from ml_code.triton_deploy.clients.artifacts import ProxiedStore, S3Store
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.settings import Settings
from tests.support.servers.plain import answer, as_json, plain_server, sent
from tests.support.settings import changed

SECRETS = ("the-signature", "the-password", "the-secret-key", "X-Amz-Signature")


@contextmanager
def everything_logged() -> Iterator[None]:
    """Every logger that there is says all that it has to say."""
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    levels = [(logger, logger.level) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def test_nothing_of_an_address_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "worker")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    says = iter([answer(503), sent(b""), sent(b"HTTP/1.1 200 OK\r\n: odd\r\n\r\n{}")])
    with plain_server(lambda request: next(says)) as s3:
        url = f"{s3.url.replace('//', '//user:the-password@')}/f?X-Amz-Signature=the-signature"
        with plain_server(
            lambda request: as_json({"url": "http://127.0.0.1:1/f?X-Amz-Signature=the-signature"})
        ) as mlflow:
            store = S3Store(
                changed(Settings(), transfer__s3_endpoint_url="http://127.0.0.1:1", transfer__timeout_s=0.3)
            )
            session = http.new_session(pool_size=1)
            with everything_logged():
                http.send(session, "GET", url, timeout_s=3, server="S3", hint="")
                with pytest.raises(DeployError):
                    store.list_files("s3://bucket/place")
                proxied = ProxiedStore(
                    changed(Settings(), mlflow__tracking_uri=mlflow.url, transfer__probe_timeout_s=0.3)
                )
                assert not proxied.source("mlflow-artifacts:/1", "f").ranged
    assert len(s3.requests) == 3
    assert not [secret for secret in SECRETS if secret in caplog.text]
    assert "Retrying" not in caplog.text
    assert "S3 is not read directly" in caplog.text


def test_an_error_of_a_library_is_kept_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    http.new_session(pool_size=1)
    logging.getLogger("urllib3.connectionpool").error(
        "no %s", "http://u:the-password@h/f?X-Amz-Signature=the-signature"
    )
    assert "no http://h/f?…" in caplog.text
