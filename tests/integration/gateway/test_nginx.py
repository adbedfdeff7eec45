"""The shipped nginx configuration, in Debian's nginx, before real Tritons and a real gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests

from tests.support.servers.gateways import Gateway, RealClient, Releases, Traffic
from tests.support.servers.hostile import ADMIN_PATHS, INFER, TRICKS, Recorder, request, send, tensor
from tests.support.servers.nginx import Nginx, nginx

__all__ = ["nginx"]

pytestmark = pytest.mark.integration

ALLOWED = re.compile(
    r"(POST /v2/models/\w+(/versions/\d+)?/infer|GET /v2/models/\w+(/versions/\d+)?(/ready)?)"
)


def test_v2_and_everything_else_come_through_one_address(nginx: Nginx, releases: Releases) -> None:
    with RealClient(nginx.address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("best_model")
        assert client.get_model_metadata("best_model")["versions"] == [str(releases.live)]
    info = requests.get(f"http://{nginx.address}/model-info", timeout=10)
    assert info.json()["version"] == releases.live
    answer = requests.post(
        f"http://{nginx.address}{INFER}", data=tensor(), headers={"X-Request-Id": "mine"}, timeout=10
    )
    assert answer.json()["model_version"] == str(releases.live)
    assert answer.headers["X-Request-Id"] == "mine"


@pytest.mark.soak
def test_swaps_and_a_restart_are_unnoticed_behind_nginx(nginx: Nginx, releases: Releases) -> None:
    with Traffic(nginx.address, releases.model, header=False) as traffic:
        for _ in range(2):
            releases.deploy()
            traffic.ask_more()
            releases.revert()
            traffic.ask_more()
        releases.stacks[1].restart("triton")
        traffic.ask_more(100)
    traffic.assert_unnoticed()


def test_nginx_sends_tritons_nothing_but_inference_and_metadata(gateway: Gateway, tmp_path: Path) -> None:
    with Recorder() as recorder, Nginx(tmp_path, [recorder.address], gateway.address) as nginx:
        for path in ADMIN_PATHS + TRICKS:
            for method in ("GET", "POST"):
                send(nginx, request(method, path))
        for method in ("GET", "PUT", "DELETE"):
            assert send(nginx, request(method, INFER)) == b"HTTP/1.1 405"
        packed = send(nginx, request("POST", INFER, b"x" * 100, "Content-Encoding: gzip\r\n"))
        assert packed == b"HTTP/1.1 415"
        assert (
            send(nginx, f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode())
            == b"HTTP/1.1 413"
        )
        send(nginx, request("POST", INFER, tensor()))
    assert f"POST {INFER}" in recorder.asked
    assert {asked for asked in recorder.asked if not ALLOWED.fullmatch(asked)} == set()
