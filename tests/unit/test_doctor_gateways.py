"""Whether what the gateways count can be read: by a canary, and what the doctor says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ml_code.triton_deploy.clients.gateway_counts import GatewayCounts
from ml_code.triton_deploy.doctor import DoctorVerdict, Finding
from ml_code.triton_deploy.doctor.examination import run_all
from ml_code.triton_deploy.doctor.gateways import GatewaysCheck
from tests.support.settings import changed
from tests.support.world import SETTINGS

KEY = "a key"
PAGE = (
    b"# TYPE gateway_request_duration_seconds histogram\n"
    b'gateway_request_duration_seconds_count{model="m",outcome="failed",version="2"} 3.0\n'
)


@contextmanager
def gateway(page: bytes = PAGE, status: int = 200) -> Iterator[str]:
    """A gateway that wants a key; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.headers.get("X-Api-Key") == KEY else 401)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def findings(*urls: str, key: str = KEY) -> list[Finding]:
    settings = changed(
        SETTINGS, canary__gateway_urls=urls, canary__gateway_api_key=key, bake__prometheus_timeout_s=2
    )
    return run_all([GatewaysCheck(settings)], {})


def test_a_gateway_that_wants_a_key_is_read_with_it(caplog: pytest.LogCaptureFixture) -> None:
    with gateway() as url:
        figures = {"gateway_request_duration_seconds_count/failed": 3.0}
        assert GatewayCounts([url], 2, KEY)("m", 2) == {url: figures}
        assert GatewayCounts([url], 2)("m", 2) == {}
    assert "Set GATEWAY_API_KEY" in caplog.text


def test_the_doctor_counts_those_that_can_be_read() -> None:
    with gateway() as one, gateway() as two:
        (found,) = findings(one, two)
    assert (found.verdict, found.what) == (DoctorVerdict.OK, "What they count can be read: 2 gateways.")


@pytest.mark.parametrize(
    ("page", "status", "key", "said"),
    [
        (PAGE, 200, "another", "denies access (401)"),
        (b"<html>Log in</html>", 200, KEY, "it has no figures of a gateway"),
        (b"", 404, KEY, "it has no figures of a gateway"),
        (b"", 503, KEY, "answers 503"),
    ],
)
def test_the_doctor_says_why_one_can_not_be_read(page: bytes, status: int, key: str, said: str) -> None:
    with gateway(page, status) as url:
        (found,) = findings(url, key=key)
    assert found.verdict is DoctorVerdict.WARNING
    assert said in found.what
    assert "What it counts stops no candidate." in found.what
    assert found.fix


def test_without_gateways_the_doctor_says_what_there_is_not() -> None:
    (found,) = findings()
    assert (found.verdict, "There are none" in found.what) == (DoctorVerdict.UNKNOWN, True)
