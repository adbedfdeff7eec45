"""A real nginx with the shipped configuration, in front of Triton and the gateway."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.servers.debian_packages import REPOSITORY, unpacked
from tests.support.servers.gateways import Gateway, Releases, free_port
from tests.support.waiting import eventually


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
