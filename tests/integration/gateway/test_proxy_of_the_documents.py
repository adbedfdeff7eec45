"""The nginx of docs/how-to/tls.md before a real gateway: clients speak TLS, and the gateway tells them apart."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers.certificates import Authority
from tests.support.servers.debian_packages import REPOSITORY, unpacked
from tests.support.servers.gateways import Gateway, free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


def configuration() -> str:
    [block] = re.findall(
        r"^```nginx\n(.*?)^```", (REPOSITORY / "docs/how-to/tls.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return str(block)


class Client:
    """Asks the proxy from one of this machine's addresses."""

    def __init__(self, port: int, authority: Authority, address: str) -> None:
        self._port, self._address = port, address
        self._tls = ssl.create_default_context(cafile=str(authority.bundle))

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self._tls, source_address=(self._address, 0), timeout=30
        )
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def proxy(folder: Path, server: str, gateway: Gateway) -> Iterator[Callable[[str], Client]]:
    """Run nginx with this server; give a function that makes a client of an address."""
    authority, port = Authority(folder), free_port()
    authority.server("127.0.0.1")
    [certificate] = map(str, folder.glob("server-*.pem"))
    for shipped, own in (
        ("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx/tls/fullchain.pem", certificate),
        ("/etc/nginx/tls/key.pem", certificate),
        ("127.0.0.1:8100", gateway.address),
    ):
        assert server.count(shipped) == 1
        server = server.replace(shipped, own)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(f"events {{}} http {{ access_log off; {temporary} {server} }}")
    program = unpacked("nginx", ["nginx"]) / "usr/sbin/nginx"
    globals_ = f"daemon off; pid {folder / 'pid'}; user root;"
    with (folder / "nginx.log").open("ab") as log:
        process = subprocess.Popen(
            [str(program), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g", globals_],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "nginx.log").read_text()
            try:
                return Client(port, authority, "127.0.0.1").ask("GET", "/")[0] > 0
            except ConnectionError:
                return False

        eventually(answers, f"nginx answers, see {folder / 'log'}")
        yield lambda address: Client(port, authority, address)
    finally:
        process.terminate()
        process.wait(timeout=30)


def clients_seen(gateway: Gateway) -> float:
    """The number of clients that the gateway tells apart."""
    return max(
        sample.value
        for family in text_string_to_metric_families(gateway.get("/metrics").text)
        for sample in family.samples
        if sample.name == "gateway_clients"
    )


@pytest.mark.parametrize("believed", [True, False])
def test_clients_speak_tls_and_are_told_apart_where_the_proxy_is_believed(
    own_gateway: Callable[..., Gateway], tmp_path: Path, believed: bool
) -> None:
    gateway = own_gateway(FORWARDED_ALLOW_IPS="127.0.0.1" if believed else "192.0.2.1")
    with proxy(tmp_path, configuration(), gateway) as client:
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            status, answer = client(address).ask("POST", "/predict", {"rows": [[1, 1]]})
            assert status == 200, answer
        assert clients_seen(gateway) == (3 if believed else 1)


def test_the_gateway_answers_below_a_path_of_the_proxy(
    own_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    line = "location / {\n        proxy_pass http://127.0.0.1:8100;"
    assert line in configuration()
    server = configuration().replace(line, "location /models/ {\n        proxy_pass http://127.0.0.1:8100/;")
    with proxy(tmp_path, server, own_gateway()) as client:
        ours = client("127.0.0.1")
        assert ours.ask("POST", "/models/predict", {"rows": [[1, 1]]})[0] == 200
        status, page = ours.ask("GET", "/models/")
        assert status == 200
        # Every address that the page asks is relative.
        assert not re.findall(rb"(?:fetch\(|href=|src=)[\"'`]/", page)
        assert ours.ask("GET", "/models/status")[0] == 200
