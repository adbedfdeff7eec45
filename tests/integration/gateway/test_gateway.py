"""The gateway on real Tritons: what clients call, and what they live through while releases come and go."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.support.servers.gateways import Gateway, RealClient, Releases, Traffic
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

INFER = "/v2/models/best_model/infer"
V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}


# What clients call


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_the_real_client_works_by_changing_only_the_url(
    gateway: Gateway, releases: Releases, binary: bool
) -> None:
    for address in (releases.stacks[0].url("triton").removeprefix("http://"), gateway.address):
        with RealClient(address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.get_server_metadata()["name"] == "triton"
            assert client.is_model_ready("best_model")
            assert not client.is_model_ready("nobody")
            assert client.get_model_metadata("best_model")["inputs"][0]["name"] == "x"
            tensor = InferInput("x", [2, 2], "FP32")
            tensor.set_data_from_numpy(np.array([[1, 2], [3, 4]], np.float32), binary_data=binary)
            answer = client.infer(
                "best_model", [tensor], outputs=[InferRequestedOutput("y", binary)], request_id="r1"
            )
            assert answer.as_numpy("y").tolist() == [
                [v * releases.live for v in row] for row in ([1, 2], [3, 4])
            ]
            assert answer.get_response()["id"] == "r1"
            version = answer.get_response()["model_version"]
            assert version == str(releases.live)
            live = client.infer("best_model", [tensor], model_version=version)
            assert live.get_response()["model_version"] == version
            seen = client.version
            wrong = InferInput("z", [1, 2], "FP32").set_data_from_numpy(np.ones((1, 2), np.float32))
            with pytest.raises(InferenceServerException, match="unexpected inference input 'z'"):
                client.infer("best_model", [wrong])
    assert seen == str(releases.live)


def test_large_bodies_go_through_untouched_in_both_directions(gateway: Gateway) -> None:
    with RealClient(gateway.address) as client:
        rows = 1_000_000
        values = np.random.default_rng(0).standard_normal((rows, 2)).astype(np.float32)
        tensor = InferInput("x", [rows, 2], "FP32")
        tensor.set_data_from_numpy(values)
        answer = client.infer("best_model", [tensor])
        factor = float(client.version)
        np.testing.assert_array_equal(answer.as_numpy("y"), values * np.float32(factor))


def test_predictions_say_who_answered(gateway: Gateway, releases: Releases) -> None:
    for path in ("/predict", "/predict/best_model"):
        answer = gateway.post(path, json={"rows": [[1, 2]]}, headers={"X-Request-Id": "mine"})
        assert answer.json() == {
            "model": "best_model",
            "version": releases.live,
            "outputs": {"y": [[releases.live, 2 * releases.live]]},
        }
        assert answer.headers["X-Model-Version"] == str(releases.live)
        assert answer.headers["X-Request-Id"] == "mine"
    wrong = gateway.post("/predict", json={"records": [{"x": [1, "a"]}]})
    assert wrong.status_code == 422
    assert [entry["field"] for entry in wrong.json()["fields"]] == ["records[0].x[1]"]
    assert gateway.post("/predict/nobody", json={"rows": [[1, 2]]}).status_code == 404


def test_what_is_live_and_what_failed(gateway: Gateway, releases: Releases) -> None:
    release = json.loads(releases.current_file.read_text())
    failed = releases.fail()
    info = gateway.info()
    assert {
        key: info[key] for key in ("model", "run_id", "alias", "digest", "generation", "previous_version")
    } == {
        key: release[key] for key in ("model", "run_id", "alias", "digest", "generation", "previous_version")
    }
    assert info["version"] == release["active_version"]
    assert info["since_utc"] == release["updated_at_utc"]
    assert info["backend"] == "triton"
    assert info["last_failure"]["version"] == failed
    assert "y is off" in info["last_failure"]["error"]
    assert gateway.get("/model-info/nobody").status_code == 404
    status = gateway.get("/status").json()
    assert status["releases"][0]["generation"] == release["generation"]
    assert "best_model" in status["models"]
    page = gateway.get("/")
    assert "text/html" in page.headers["Content-Type"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


def test_metrics_count_by_version_and_outcome(
    own_gateway: Callable[..., Gateway], releases: Releases
) -> None:
    gateway = own_gateway()
    gateway.post("/predict", json={"rows": [[1, 2]]})
    gateway.post(INFER, json=V2)
    gateway.post("/predict", json={"rows": [[1]]})
    text = gateway.get("/metrics").text
    labels = f'model="best_model",outcome="{{}}",version="{releases.live}"'
    assert f"gateway_request_duration_seconds_count{{{labels.format('ok')}}} 2.0" in text
    assert f"gateway_request_duration_seconds_count{{{labels.format('refused')}}} 1.0" in text
    assert f'gateway_live_version{{model="best_model"}} {float(releases.live)}' in text
    for name in ("gateway_swaps_total", "gateway_release_age_seconds", "gateway_release_staleness_seconds"):
        assert f'{name}{{model="best_model"}}' in text


def test_requests_are_logged_as_json_with_their_id(
    own_gateway: Callable[..., Gateway], releases: Releases
) -> None:
    gateway = own_gateway()
    gateway.post("/predict", json={"rows": [[1, 2]]}, headers={"X-Request-Id": "find-me"})
    given = gateway.post(INFER, json=V2, headers={"X-Request-Id": 'bad "id"'}).headers["X-Request-Id"]
    assert '"' not in given
    gateway.stop()
    lines = {line.get("request_id"): line for line in gateway.log_lines()}
    line = lines["find-me"]
    assert (line["path"], line["status"], line["outcome"]) == ("/predict", 200, "ok")
    assert line["version"] == str(releases.live)
    assert lines[given]["path"] == INFER


def test_a_key_opens_everything_but_probes_are_free(own_gateway: Callable[..., Gateway]) -> None:
    gateway = own_gateway(GATEWAY_API_KEY="secret", GATEWAY_CORS_ORIGINS="https://app.example")
    for path in ("/health/live", "/health/ready", "/v2/health/ready", "/", "/docs"):
        assert gateway.get(path).ok
    for method, path in (
        ("POST", "/predict"),
        ("POST", INFER),
        ("GET", "/model-info"),
        ("GET", "/metrics"),
        ("GET", "/model-info/best_model/example"),
        ("GET", "/status"),
        ("GET", "/openapi.json"),
    ):
        assert gateway.request(method, path).status_code == 401
        assert gateway.request(method, path, headers={"X-Api-Key": "secre"}).status_code == 401
    for headers in ({"X-Api-Key": "secret"}, {"Authorization": "Bearer secret"}):
        assert gateway.post(INFER, json=V2, headers=headers).ok
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert (
        gateway.request("OPTIONS", "/predict", headers=asked).headers["Access-Control-Allow-Origin"]
        == "https://app.example"
    )


def test_other_origins_get_no_leave_by_default(gateway: Gateway) -> None:
    answer = gateway.post(INFER, json=V2, headers={"Origin": "https://app.example"})
    assert answer.ok
    assert "Access-Control-Allow-Origin" not in answer.headers


# Releases come and go


def test_swaps_are_unnoticed(gateway: Gateway, releases: Releases) -> None:
    with Traffic(gateway.address, releases.model) as traffic:
        for _ in range(5):
            releases.deploy()
            traffic.ask_more()
            releases.revert()
            traffic.ask_more()
    traffic.assert_unnoticed()
    assert len(traffic.seen.versions) >= 6


def test_a_failed_deploy_is_unnoticed(gateway: Gateway, releases: Releases) -> None:
    live = releases.live
    with Traffic(gateway.address, releases.model) as traffic:
        releases.fail()
    traffic.assert_unnoticed()
    assert traffic.seen.versions == {live}


@pytest.mark.parametrize("how", ["stopped", pytest.param("killed", marks=pytest.mark.soak)])
def test_the_loss_of_one_of_two_tritons_is_unnoticed(gateway: Gateway, releases: Releases, how: str) -> None:
    stack = releases.stacks[1]
    with Traffic(gateway.address, releases.model) as traffic:
        if how == "killed":
            before = stack.pid("triton")
            # Before that, supervisord calls it a failed start and has other rules.
            eventually(lambda: stack.states()["triton"].state == "RUNNING", "Triton runs")
            stack.kill("triton", signal.SIGKILL)
            eventually(lambda: stack.pid("triton") not in (0, before), "Triton is started again")
            stack.wait_ready("triton")
        else:
            stack.restart("triton")
        traffic.ask_more(100)
    traffic.assert_unnoticed()


def test_without_any_triton_it_says_so_and_comes_back(
    own_gateway: Callable[..., Gateway], releases: Releases
) -> None:
    stack = releases.stacks[0]
    gateway = own_gateway(GATEWAY_TRITON_URLS=stack.url("triton").removeprefix("http://"))
    stack.stop_process("triton")
    try:
        for path, body in (("/predict", {"rows": [[1, 2]]}), (INFER, V2)):
            answer = gateway.post(path, json=body)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"]
            assert answer.json()["error"]
        assert gateway.get("/health/live").ok
        assert "Triton" in gateway.get("/health/ready").json()["reason"]
        assert gateway.info()["version"] == releases.live
    finally:
        stack.start_process("triton")
    eventually(lambda: gateway.post(INFER, json=V2).ok, "it serves again")


def test_a_damaged_current_file_changes_nothing(gateway: Gateway, releases: Releases) -> None:
    text, live = releases.current_file.read_text(), releases.live
    with Traffic(gateway.address, releases.model) as traffic:
        for damage in (text[: len(text) // 2], "", "{}"):
            releases.current_file.write_text(damage)
            traffic.ask_more()
            assert gateway.info()["version"] == live
        releases.current_file.unlink()
        traffic.ask_more()
        assert gateway.info()["version"] == live
        releases.current_file.write_text(text)
    traffic.assert_unnoticed()


def test_several_workers_and_instances_agree_within_the_interval(
    own_gateway: Callable[..., Gateway], gateway: Gateway, releases: Releases
) -> None:
    second = own_gateway(GATEWAY_WORKERS="2")
    version = releases.deploy()
    eventually(
        lambda: {g.info()["version"] for g in (second, gateway) for _ in range(10)} == {version},
        "all say the same",
    )
    for _ in range(20):
        second.post(INFER, json=V2)
    text = second.get("/metrics").text
    counted = (
        f'gateway_request_duration_seconds_count{{model="best_model",outcome="ok",version="{version}"}} 20.0'
    )
    assert counted in text


def test_a_read_only_repository_is_enough(
    own_gateway: Callable[..., Gateway], releases: Releases, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(releases.root, copy, symlinks=True)

    def state() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in copy.rglob("*")}

    before = state()
    gateway = own_gateway(TRITON_DEPLOY_REPOSITORY=str(copy))
    assert gateway.post("/predict", json={"rows": [[1, 2]]}).ok
    assert gateway.get("/status").ok
    assert state() == before


# Limits


class Silent:
    """A server that takes connections and never answers."""

    def __enter__(self) -> Silent:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_time_outs_and_a_full_queue_have_clear_answers(own_gateway: Callable[..., Gateway]) -> None:
    with Silent() as triton:
        gateway = own_gateway(
            ready=False,
            GATEWAY_TRITON_URLS=triton.address,
            GATEWAY_REQUEST_TIMEOUT_S="3",
            GATEWAY_MAX_CONCURRENCY="1",
            GATEWAY_MAX_QUEUE="1",
        )
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(gateway.post(INFER, json=V2).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: "gateway_queue_length 1.0" in gateway.get("/metrics").text, "one waits")
        busy = gateway.post("/predict", json={"rows": [[1, 2]]})
        assert busy.status_code == 429
        assert busy.headers["Retry-After"]
        for thread in threads:
            thread.join()
        assert statuses == [504, 504]


def test_a_body_that_does_not_end_in_time_is_given_up(own_gateway: Callable[..., Gateway]) -> None:
    gateway = own_gateway(GATEWAY_REQUEST_TIMEOUT_S="1")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_body_without_an_end_is_cut_off_and_memory_stays(gateway: Gateway) -> None:
    before = gateway.memory_bytes
    connection = http.client.HTTPConnection(gateway.address, timeout=60)
    connection.putrequest("POST", INFER)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    piece = b"100000\r\n" + b"1" * (1 << 20) + b"\r\n"
    # Ten gigabytes, if anybody took them.
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 10_000:
            connection.sock.sendall(piece)
            sent += 1
    assert sent < 200
    assert gateway.memory_bytes - before < 200 << 20


def test_a_stop_finishes_what_is_in_flight(own_gateway: Callable[..., Gateway]) -> None:
    gateway = own_gateway()
    body = json.dumps(V2).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        client.sendall(head + body[:10])
        # What is in flight has to be known to the server before it is told to stop.
        time.sleep(0.5)
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(gateway.port), "it takes no new connections")
        client.sendall(body[10:])
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 200
        assert json.loads(answer.read())["outputs"]
    assert gateway.stop() == 0


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False
