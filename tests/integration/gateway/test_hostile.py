"""The gateway among people who mean it no good, and against its own OpenAPI document."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.servers.gateways import Gateway, Releases
from tests.support.servers.hostile import (
    ADMIN_PATHS,
    INFER,
    TRICKS,
    Recorder,
    request,
    send,
    tensor,
)

pytestmark = pytest.mark.integration

ALLOWED = re.compile(
    r"(POST /v2/models/best_model(/versions/\d+)?/infer|GET /v2/models/best_model(/versions/\d+)?(/ready)?|GET /v2(/health/ready)?)"
)


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


def test_what_was_judged_is_what_is_forwarded(own_gateway: Callable[..., Gateway]) -> None:
    """Not a byte of the JSON part that nobody looked at; every byte of what follows it."""
    right = json.dumps({"unknown": {"a": [":"]}, **json.loads(tensor())}, indent=2).encode()
    binary = json.loads(tensor(parameters={"binary_data_size": 8}))
    del binary["inputs"][0]["data"]
    spacious = json.dumps(binary, indent=4).encode() + b"  "
    with Recorder() as recorder:
        gateway = own_gateway(ready=False, GATEWAY_TRITON_URLS=recorder.address)
        gateway.post(INFER, data=right)
        header = {"Inference-Header-Content-Length": str(len(spacious))}
        gateway.post(INFER, data=spacious + b"8 bytes!", headers=header)
    json_only, with_tensor = recorder.bodies
    assert b"unknown" not in json_only
    assert b" " not in json_only
    assert json.loads(json_only) == json.loads(tensor())
    assert with_tensor.endswith(b"}8 bytes!")
    assert json.loads(with_tensor.removesuffix(b"8 bytes!")) == binary


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
