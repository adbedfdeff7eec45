"""The gateway among people who mean it no good, and against its own OpenAPI document."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import pytest

from tests.integration.gateways import Gateway, Releases

pytestmark = pytest.mark.integration

INFER = "/v2/models/best_model/infer"
ALLOWED = re.compile(
    r"(POST /v2/models/best_model(/versions/\d+)?/infer|GET /v2/models/best_model(/versions/\d+)?(/ready)?|GET /v2(/health/ready)?)"
)

ADMIN_PATHS = [
    "/v2/repository/index",
    "/v2/repository/models/best_model/load",
    "/v2/repository/models/best_model/unload",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/status",
    "/v2/cudasharedmemory/region/r/register",
    "/v2/trace/setting",
    "/v2/models/best_model/trace/setting",
    "/v2/logging",
    "/v2/models/best_model/config",
    "/v2/models/best_model/stats",
    "/v2/models/stats",
    "/v2/models/best_model/generate",
    "/v2/models/best_model/generate_stream",
    "/v2/models/best_model.v1/infer",
    "/v2/models/best_model.v1",
    "/metrics/../v2/repository/index",
]
TRICKS = [
    "/v2/models/../repository/index",
    "/v2/models/best_model/../../repository/index",
    "/v2/models/%2e%2e/repository/index",
    "/v2/models/..%2frepository%2findex",
    "/v2/models/best_model%2f..%2f..%2frepository%2findex",
    "/v2/models/best_model/%2e%2e/%2e%2e/repository/index",
    "/v2/models/best_model/infer/../../../repository/index",
    "/v2/models/best_model/infer%0d%0aX-Evil:%201",
    "/v2/models/best_model/infer%00",
    "/v2/models/best_model/infer;x=/v2/repository/index",
    "/v2//repository/index",
    "//v2/repository/index",
    "/./v2/repository/index",
    "/%76%32/repository/index",
    "/v2\\repository\\index",
    "/V2/repository/index",
    "/v2/repository/index/",
    "/v2/repository/index?ready=true",
    "http://127.0.0.1:8000/v2/repository/index",
    "/predict/../v2/repository/index",
    "/predict/..%2f..%2fetc%2fpasswd",
    "/predict/%00",
    "/model-info/..%2f..%2fetc%2fpasswd",
    "/model-info/%2e%2e",
    "/status?model=../../etc/passwd",
    "/status?model=%00",
    "/../../../../etc/passwd",
    "/%c0%ae%c0%ae/etc/passwd",
    "/v2/models/" + "a" * 5000 + "/infer",
    "/v2/models/best_model/versions/-1/infer",
    "/v2/models/best_model/versions/9223372036854775808/infer",
    "/v2/models/best_model/versions/1e3/infer",
    "/v2/models/best_model/versions/../../repository/infer",
]


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def tensor(**changes: object) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1], **changes}]}
    ).encode()


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


def bodies() -> Iterator[bytes]:
    """Bodies for inference and prediction that are wrong in every way that somebody thought of."""
    for shape in (
        [2**63 - 1],
        [2**63],
        [2**64],
        [-(2**63)],
        [10**12, 2],
        [2**32, 2**32],
        [2**31, 2**31, 4],
        [0, 2],
        [-1, 2],
        [1] * 1000,
        [1.5, 2],
        ["1", 2],
        [None],
        [[1, 2]],
        [True, 2],
        {},
        "1,2",
        None,
        10**400,
    ):
        yield tensor(shape=shape)
    for data in (
        [1],
        [1] * 10_000,
        [None, 1],
        ["a", "b"],
        {"a": 1},
        "11",
        None,
        [[[[1]]]],
        [1, [1, [1]]],
        [1e308, -1e308],
        [10**400, 1],
    ):
        yield tensor(data=data)
    for datatype in ("FP99", "", None, 5, "BYTES", "INT64", "fp32", "A" * 10_000):
        yield tensor(datatype=datatype)
    for parameters in (
        {"shared_memory_region": "a", "shared_memory_byte_size": 8},
        {"shared_memory_region": "triton_python_backend_shm_region_1", "shared_memory_byte_size": 1 << 40},
        {"binary_data_size": 2**63},
        {"binary_data_size": -8},
        {"binary_data_size": 8},
        [1],
        "x",
    ):
        yield tensor(parameters=parameters)
    for depth in (50, 1000, 100_000, 1_000_000):
        yield nested(depth)
        yield b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":' + nested(depth) + b"}]}"
        yield nested(depth, b'{"a":', b"}")
        yield b'{"rows":' + nested(depth) + b"}"
        yield b"[" * depth
    yield from (
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"NaN",
        b'{"rows":[[NaN,1]]}',
        b'{"inputs":[]}',
        b'{"inputs":5}',
        b'{"inputs":[5]}',
    )
    yield json.dumps({"inputs": [{}] * 100_000}).encode()
    yield json.dumps({"rows": [[1]] * 200_000}).encode()
    yield json.dumps({"records": [{}] * 200_000}).encode()
    yield json.dumps({"records": [{str(i): i for i in range(100_000)}]}).encode()
    yield json.dumps({**json.loads(tensor()), "id": "i" * 1_000_000}).encode()
    yield json.dumps(
        {**json.loads(tensor()), "parameters": {"sequence_id": 2**64, "timeout": -1, "priority": 2**70}}
    ).encode()
    yield b"\xff\xfe\x00" * 1000
    yield b'{"inputs": "\xed\xa0\x80"}'
    yield b'{"rows": [["\\ud800", 1]]}'
    yield b"1" * (9 << 20)
    yield b" " * (1 << 20) + tensor()


def strange() -> Iterator[bytes]:
    """Requests that are wrong as HTTP, or would be another one for a server behind."""
    body = tensor()
    smuggled = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    chunked = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    yield request("POST", INFER, body, "Transfer-Encoding: chunked\r\n") + smuggled
    yield request("POST", INFER, body, "Transfer-Encoding: identity, chunked\r\n")
    yield request("POST", INFER, body, f"Content-Length: {len(body) + 1}\r\n")
    yield request("POST", INFER, body + smuggled)
    yield f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunked
    yield (
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"1\r\n{\r\n" * 100_000
        + b"0\r\n\r\n"
    )
    yield f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n".encode()
    yield f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".encode()
    yield f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".encode()
    yield f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n".encode()
    for length in ("-1", "0", "1", "999999", "9" * 30, "1.5", "0x10", "", "10, 10"):
        yield request("POST", INFER, body, f"Inference-Header-Content-Length: {length}\r\n")
    yield request("POST", INFER, gzip.compress(b"1" * (10 << 20)), "Content-Encoding: gzip\r\n")
    yield request("POST", INFER, body, "Content-Encoding: deflate\r\n")
    yield request("POST", INFER, body, "X-Request-Id: " + "a" * 10_000 + "\r\n")
    yield request("POST", INFER, body, "X-Request-Id: a\tb\r\n")
    yield request("POST", INFER, body, "X-Model-Version: 99\r\nX-Forwarded-For: 127.0.0.1\r\n")
    yield request("POST", INFER, body, "Connection: Upgrade\r\nUpgrade: h2c\r\n")
    yield request(
        "GET",
        "/",
        b"",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n",
    )
    yield request("POST", INFER, body, "Expect: 100-continue\r\n")
    yield b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 200_000 + b"\r\n\r\n"
    yield b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n"
    yield b"GET /\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"\x00" * 1000
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "PURGE", "get"):
        yield request(method, INFER)


def corpus() -> list[bytes]:
    found = [request(method, path) for path in ADMIN_PATHS + TRICKS for method in ("GET", "POST")]
    for body in bodies():
        found.append(request("POST", INFER, body))
        found.append(request("POST", "/predict", body))
    return found + list(strange())


class Listening(Protocol):
    """What listens on a port of this machine."""

    port: int


def send(server: Listening, data: bytes) -> bytes:
    """Send bytes, and return the beginning of the answer; empty when there is none but the end of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        # An answer may come, and the connection end, while there is more to send.
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        with contextlib.suppress(ConnectionError):
            return client.recv(12)
    return b""


class Recorder:
    """A server in Triton's place that notes what it is asked, and says no."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._note()

            def do_POST(self) -> None:
                self._note()

            def _note(self) -> None:
                asked.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(400)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(set(corpus())) >= 200


def test_nothing_hostile_ends_the_gateway_or_a_triton(
    own_gateway: Callable[..., Gateway], releases: Releases
) -> None:
    gateway = own_gateway(GATEWAY_REQUEST_TIMEOUT_S="5")
    tritons = [stack.pid("triton") for stack in releases.stacks]
    before = gateway.memory_bytes
    for data in corpus():
        status = send(gateway, data)
        assert status == b"" or status.startswith((b"HTTP/1.1 1", b"HTTP/1.1 2", b"HTTP/1.1 4")), data[:300]
    assert gateway.process.poll() is None
    assert [stack.pid("triton") for stack in releases.stacks] == tritons
    assert gateway.memory_bytes - before < 300 << 20
    good = gateway.post(INFER, data=tensor())
    assert good.headers["X-Model-Version"] == str(releases.live)


def test_nothing_is_forwarded_that_must_not_be(own_gateway: Callable[..., Gateway]) -> None:
    with Recorder() as recorder:
        gateway = own_gateway(
            ready=False, GATEWAY_TRITON_URLS=recorder.address, GATEWAY_REQUEST_TIMEOUT_S="5"
        )
        for data in corpus():
            send(gateway, data)
        send(gateway, request("POST", INFER, tensor()))
    assert recorder.asked
    assert {asked for asked in recorder.asked if not ALLOWED.fullmatch(asked)} == set()


def test_answers_are_those_that_the_openapi_document_has(gateway: Gateway, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    document = gateway.get("/openapi.json").json()
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "model":
                    # Any other name ends in 404.
                    parameter["schema"] = {"enum": ["best_model", "nobody"]}
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document))
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                str(file),
                "--url",
                gateway.url,
                "--checks",
                checks,
            ),
            *("--max-examples", "20", "--seed", "1", "--generation-database", "none"),
            *("--phases", "examples,coverage,fuzzing", "--no-color"),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"Tested: 1[0-9]", done.stdout)
