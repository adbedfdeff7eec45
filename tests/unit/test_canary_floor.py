"""What gateways count themselves stops a candidate that fails there, with or without Prometheus."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ml_code.gateway.http.metrics import Metrics
from ml_code.gateway.triton.candidate_metrics import CandidateMetrics
from ml_code.triton_deploy.clients import gateway_counts
from ml_code.triton_deploy.clients.gateway_counts import GatewayCounts
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_floor import (
    ANSWERED,
    CANARY,
    SHADOW,
    baseline,
    complaint,
    counted_in,
    since,
)
from tests.support.world import MODEL

LIMIT = 0.01


def page(version: int = 2, **counts: int) -> str:
    """Return what a gateway's own code writes of a candidate's requests."""
    registry = CollectorRegistry()
    candidates = CandidateMetrics()
    for metric in candidates.all:
        registry.register(metric)
    for outcome in ("failed", "ended", "absent"):
        for _ in range(counts.get(outcome, 0)):
            candidates.canary_failed(MODEL, version, outcome)
    for outcome in ("ok", "timeout"):
        for _ in range(counts.get(f"shadow_{outcome}", 0)):
            candidates.shadow(MODEL, version, outcome)
    metrics = Metrics(lambda: (), lambda: 0, lambda: 0)
    for _ in range(counts.get("answered", 0)):
        metrics.observe(MODEL, str(version), "ok", 0.01)
    return (generate_latest(registry) + metrics.text()).decode()


# The figures


def test_a_gateways_page_is_read_as_its_code_writes_it() -> None:
    found = counted_in(page(answered=7, failed=3, ended=1, shadow_timeout=2), MODEL, 2)
    assert found is not None
    assert (
        found.items()
        >= {
            f"{ANSWERED}/ok": 7.0,
            f"{CANARY}/failed": 3.0,
            f"{CANARY}/ended": 1.0,
            f"{SHADOW}/timeout": 2.0,
        }.items()
    )
    assert not any(counted_in(page(failed=3), MODEL, 3) or {})
    assert not any(counted_in(page(failed=3), "other", 2) or {})
    assert counted_in("<html>Welcome</html>", MODEL, 2) is None


def test_what_was_counted_before_the_canary_does_not_count() -> None:
    before = {"a": {f"{CANARY}/failed": 50.0}, "b": {}}
    now = {"a": {f"{CANARY}/failed": 51.0}, "b": {f"{CANARY}/failed": 2.0}}
    assert since(before, now) == {f"{CANARY}/failed": 3.0}


def test_a_gateway_that_comes_later_counts_from_then_and_one_that_was_restarted_from_0() -> None:
    before = {"a": {f"{CANARY}/failed": 50.0}}
    now = {"a": {f"{CANARY}/failed": 4.0}, "new": {f"{CANARY}/failed": 9.0}}
    begun = baseline(before, now)
    assert since(begun, now) == {f"{CANARY}/failed": 4.0}
    assert baseline(begun, {"new": {f"{CANARY}/failed": 10.0}}) == begun, "one that is away keeps its place"


@pytest.mark.parametrize(
    ("grown", "verdict"),
    [
        ({}, None),
        ({f"{ANSWERED}/ok": 1000, f"{CANARY}/failed": 3}, None),
        ({f"{CANARY}/failed": 2}, None),
        ({f"{CANARY}/failed": 3}, CanaryVerdict.FAIL),
        ({f"{CANARY}/both": 30}, None),
        ({f"{ANSWERED}/ok": 500, f"{CANARY}/failed": 50}, CanaryVerdict.FAIL),
        ({f"{ANSWERED}/ok": 50, f"{ANSWERED}/busy": 9000, f"{CANARY}/failed": 9}, CanaryVerdict.FAIL),
        ({f"{SHADOW}/ok": 500, f"{SHADOW}/timeout": 50}, CanaryVerdict.FAIL),
        ({f"{SHADOW}/ok": 500, f"{SHADOW}/dropped": 500}, None),
        ({f"{CANARY}/ended": 1}, CanaryVerdict.ENDED),
        ({f"{SHADOW}/ended": 1, f"{CANARY}/absent": 1}, CanaryVerdict.ENDED),
        ({f"{SHADOW}/absent": 1}, CanaryVerdict.GONE),
    ],
)
def test_the_floor(grown: dict[str, float], verdict: CanaryVerdict | None) -> None:
    found = complaint(grown, LIMIT)
    assert (found and found[0]) == verdict


def test_what_it_says() -> None:
    found = complaint({f"{ANSWERED}/ok": 30.0, f"{CANARY}/failed": 10.0}, LIMIT)
    assert found == (
        CanaryVerdict.FAIL,
        "the gateways themselves counted 10 of 40 requests that failed on the candidate alone (25.0%), the limit is 1.0%",
    )


# Asking them


@contextmanager
def gateway(text: str, status: int = 200) -> Iterator[str]:
    """A server that answers ``/metrics`` with a text; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.encode()
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_who_can_not_be_asked_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with (
        gateway(page(failed=4)) as good,
        gateway("<html>Sign in</html>") as login,
        gateway("", 500) as broken,
        socket.socket() as reserved,
    ):
        reserved.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        counts = GatewayCounts((f"{good}/", login, broken, away), timeout_s=2)(MODEL, 2)
    assert {url: found[f"{CANARY}/failed"] for url, found in counts.items()} == {good: 4.0}
    for url in (login, broken, away):
        assert url in caplog.text
    assert "Correct TRITON_DEPLOY_GATEWAY_URLS" in caplog.text


def test_a_name_stands_for_every_gateway_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(host: str, port: int, type: int) -> list[tuple[object, ...]]:
        assert (host, port) == ("gateways", 8080)
        inet, inet6 = socket.AF_INET, socket.AF_INET6
        return [
            (inet6, type, 6, "", ("fe80::1", port, 0, 0)),
            (inet, type, 6, "", ("10.0.0.2", port)),
            (inet, type, 6, "", ("10.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert list(gateway_counts._addresses("http://gateways:8080/")) == [
        "http://10.0.0.1:8080",
        "http://10.0.0.2:8080",
    ]
    assert list(gateway_counts._addresses("https://gateways:8080")) == ["https://gateways:8080"]
