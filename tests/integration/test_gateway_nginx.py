"""The shipped nginx configuration, in Debian's nginx, before real Tritons and a real gateway."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.integration.debian_packages import REPOSITORY, unpacked
from tests.integration.gateways import Gateway, RealClient, Releases, Traffic, eventually, free_port
from tests.integration.test_gateway_hostile import ADMIN_PATHS, INFER, TRICKS, Recorder, request, send, tensor

pytestmark = pytest.mark.integration

ALLOWED = re.compile(
    r"(POST /v2/models/\w+(/versions/\d+)?/infer|GET /v2/models/\w+(/versions/\d+)?(/ready)?)"
)


class Nginx:
    """nginx with the shipped configuration; only addresses and folders are this test's."""

    def __init__(self, folder: Path, tritons: list[str], gateway: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        text = (REPOSITORY / "deploy/nginx/nginx.conf").read_text()
        servers = "\n".join(f"        server {triton} max_fails=1 fail_timeout=1s;" for triton in tritons)
        text, replaced = re.subn(r"( +server 127\.0\.0\.1:80[01]0 .*\n)+", servers + "\n", text)
        assert replaced == 1
        for shipped, own in (("127.0.0.1:8100", gateway), ("127.0.0.1:8080", self.address)):
            assert text.count(shipped) == 1
            text = text.replace(shipped, own)
        temporary = " ".join(
            f"{kind}_temp_path {folder / kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = text.replace("http {", f"http {{ {temporary}", 1)
        (folder / "nginx.conf").write_text(text)
        self._log = folder / "log"
        program = unpacked("nginx", ["nginx"]) / "usr/sbin/nginx"
        # As root, its workers would be another user, who may not see this test's folder.
        globals_ = f"daemon off; pid {folder / 'pid'}; user root;"
        self._command = [str(program), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g", globals_]

    def __enter__(self) -> Nginx:
        with self._log.open("ab") as log:
            # In a session of its own: its workers are stopped with it.
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        eventually(self._answers, f"nginx answers, see {self._log}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait(timeout=10)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return requests.get(f"http://{self.address}/health/live", timeout=10).ok
        except requests.ConnectionError:
            return False


@pytest.fixture
def nginx(gateway: Gateway, releases: Releases, tmp_path: Path) -> Iterator[Nginx]:
    tritons = releases.environment["GATEWAY_TRITON_URLS"].split(",")
    with Nginx(tmp_path, tritons, gateway.address) as running:
        yield running


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
