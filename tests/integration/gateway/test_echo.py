"""What the gateway judged is what Triton gets, and nothing that it lets through ends a Triton."""

from __future__ import annotations

import http.client
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_code.gateway.http.errors import GatewayError, Malformed
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.v2.guard import check_request
from ml_code.gateway.v2.tensors import read_inputs
from tests.support.servers.gateways import Gateway
from tests.support.servers.tritons import TritonServer
from tests.support.servers.v2_bodies import MODEL, Bodies, Body, as_seen, live_on_a_triton, write_echo_model

pytestmark = pytest.mark.integration

LIMITS = GatewaySettings(repository=Path())


@dataclass(frozen=True)
class Echo:
    """A gateway, and the Triton behind it whose model says what it got."""

    gateway: Gateway
    triton: TritonServer

    def ask(self, connection: http.client.HTTPConnection, body: Body) -> tuple[int, bytes]:
        headers = (
            {} if body.json_length is None else {"Inference-Header-Content-Length": str(body.json_length)}
        )
        connection.request("POST", f"/v2/models/{MODEL}/infer", body.json + body.binary, headers)
        response = connection.getresponse()
        content = response.read()
        length = response.getheader("Inference-Header-Content-Length")
        if length is not None and response.status == 200:
            # The one output, a text after its length.
            content = content[int(length) + 4 :]
        elif response.status == 200:
            content = json.loads(content)["outputs"][0]["data"][0].encode()
        return response.status, content


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    folder = tmp_path_factory.mktemp("echo")
    with (
        live_on_a_triton(folder, MODEL, write_echo_model) as (stack, environment),
        Gateway(folder / "gateway.log", environment) as gateway,
    ):
        yield Echo(gateway, TritonServer(stack))


def read_by_the_guard(body: Body) -> list[Any] | None:
    """Return the tensors as the gateway reads them; None when it refuses them."""
    content = body.json + body.binary
    try:
        request = check_request(
            content,
            body.json_length,
            len(content),
            max_json_bytes=LIMITS.max_json_bytes,
            max_depth=LIMITS.max_json_depth,
            allow_nan=False,
        )
    except GatewayError:
        return None
    binary = memoryview(content)[len(content) if body.json_length is None else body.json_length :]
    return as_seen(read_inputs(request, binary))


def is_what_was_read(seen: list[Any], read: list[Any] | None) -> bool:
    """Whether Triton saw the same tensors, to the byte; of a FP64 in JSON it may miss the last bit (it reads numbers quickly)."""
    if read is None or [tensor[:3] for tensor in seen] != [tensor[:3] for tensor in read]:
        return False
    for (_, dtype, _, its), (_, _, _, ours) in zip(seen, read, strict=True):
        if its != ours:
            if dtype != "float64":
                return False
            values, expected = (np.frombuffer(bytes.fromhex(text)) for text in (its, ours))
            if (np.abs(values - expected) > np.spacing(np.abs(expected))).any():
                return False
    return True


def put_to_the_proof(echo: Echo, seed: int, count: int) -> None:
    bodies = Bodies(seed)
    pid = echo.triton.pid
    connection = http.client.HTTPConnection(echo.gateway.address, timeout=60)
    became: Counter[str] = Counter()
    for number in range(count):
        body = bodies.right() if number % 2 else bodies.hostile()
        about = f"seed {seed}, number {number}, {body.how}: {body}"
        status, content = echo.ask(connection, body)
        assert status in ((200,) if body.right else (200, 400, 413, 422)), f"{status} {content!r} {about}"
        if status == 200:
            try:
                read = read_by_the_guard(body)
            except Malformed as error:
                raise AssertionError(
                    f"Triton takes what the gateway can't read ({error}): {about}"
                ) from error
            assert is_what_was_read(sorted(json.loads(content)), read), f"{content!r} {about}"
        became[f"{'right' if body.right else 'hostile'} {status}"] += 1
        assert echo.triton.pid == pid or number % 50, about
    print(dict(became))
    assert echo.triton.pid == pid
    assert became["right 200"] == count // 2
    assert became["hostile 400"] > count // 5


def test_what_was_judged_is_what_triton_gets(echo: Echo) -> None:
    put_to_the_proof(echo, seed=0, count=300)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_what_was_judged_is_what_triton_gets_ten_thousand_times(echo: Echo) -> None:
    put_to_the_proof(echo, seed=int(os.environ.get("FAULTS_SEED", "1")), count=10_000)
