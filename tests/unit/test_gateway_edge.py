"""A request from its head to its outcome, over a real repository and Tritons that say what a test sets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_code.gateway.front.app import create_app
from ml_code.gateway.http.errors import Absent
from ml_code.gateway.http.metrics import FAILURES, class_of
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton import backend as triton_backend
from ml_code.gateway.triton.candidates import Candidates
from ml_code.gateway.triton.release_follower import ReleaseFollower
from ml_code.gateway.triton.upstream import is_absent
from ml_code.triton_deploy.rules.canary import Exposure
from tests.support.fakes import FakeRegistry, FakeTriton, fake_store
from tests.support.world import MODEL, SETTINGS, World

PREDICT, INFER = f"/predict/{MODEL}", f"/v2/models/{MODEL}/infer"
ROWS = {
    PREDICT: {"rows": [[1.0, 1.0]]},
    INFER: {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]},
}
PATHS = pytest.mark.parametrize("path", [PREDICT, INFER])
TIMEOUT_S = 0.2
"""The limit where a test waits for it; elsewhere nothing is late, however busy the machine is."""


class Reply:
    """An answer of a Triton."""

    def __init__(self, status: int, body: bytes, *, complete: bool = True) -> None:
        self.status, self.head, self.complete = status, body, complete
        self.headers = [(b"content-length", b"%d" % len(body))]

    async def rest(self) -> AsyncIterator[bytes]:
        if not self.complete:
            await asyncio.sleep(60)
        yield b""

    def close(self) -> None:
        """Give the connection back."""

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answered(version: int) -> Reply:
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]
    said = {"model_name": MODEL, "model_version": str(version), "outputs": outputs}
    return Reply(200, json.dumps(said, separators=(",", ":")).encode())


class Servers:
    """Tritons with version 2 live and version 1 warm; what a version says is set by a test."""

    busy = 0

    def __init__(self, *_: object) -> None:
        self.asked: list[int] = []
        self.says: dict[int, Callable[[], Reply]] = {}
        self.waits: set[int] = set()

    async def ask(self, method: str, path: str, *_: object, **more: object) -> Reply:
        named = re.search(r"/versions/(\d+)/", path)
        version = int(named[1]) if named else 2
        self.asked.append(version)
        if version in self.waits:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                # Its slot stays taken: the limits of two requests that came together end within that time, on a
                # busy machine too.
                await asyncio.sleep(TIMEOUT_S / 2)
                raise
        return self.says.get(version, lambda: answered(version))()

    async def ask_candidate(self, path: str, headers: bytes, body: bytes, at: str) -> Reply:
        reply = await self.ask("POST", path)
        if is_absent(reply):
            raise Absent("No Triton has the candidate.")
        return reply

    def close(self) -> None:
        """Close the idle connections."""


class Gateway:
    """The application, and clients that ask it without a network."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.servers = Servers()
        monkeypatch.setattr(triton_backend, "Tritons", lambda *_: self.servers)
        given = {
            "repository": root,
            "model": MODEL,
            "request_timeout_s": 30,
            "canary_timeout_s": 30,
            "access_log": "off",
            **changes,
        }
        self.app: Any = create_app(GatewaySettings(**given))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        backend = self.app._backend
        await backend.start()
        try:
            yield self
        finally:
            await backend.stop()

    async def request(
        self,
        path: str,
        *,
        method: str = "POST",
        reads: bool = True,
        address: str = "10.0.0.1",
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; returns status, headers and body. A client that does not read gets no further than the head."""
        body = json.dumps(ROWS.get(path, {})).encode() if method == "POST" else b""
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        lines.append((b"content-length", b"%d" % len(body)))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": lines,
            "client": (address, 1),
            "query_string": b"",
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)
            if not reads and message["type"] == "http.response.body":
                await asyncio.sleep(60)

        await self.app(scope, receive, send)
        start = next((message for message in sent if message["type"] == "http.response.start"), {})
        shown = {name.decode(): value.decode() for name, value in start.get("headers", ())}
        content = b"".join(message.get("body", b"") for message in sent)
        return start.get("status", 0), shown, content

    async def metrics(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric of the model, by the values of its other labels in the order of their names."""
        _, _, text = await self.request("/metrics", method="GET")
        found = {}
        for labels, value in re.findall(rf"^{name}{{([^}}]*)}} (\S+)$", text.decode(), re.MULTILINE):
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            assert pairs.pop("model") == MODEL
            found[tuple(pairs[name] for name in sorted(pairs))] = float(value)
        return found

    async def outcomes(self) -> dict[tuple[str, ...], float]:
        counts = await self.metrics("gateway_request_duration_seconds_count")
        return {key: value for key, value in counts.items() if value}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A model whose release 2 has a warm version 1; the gateways of this file only read it."""
    root = tmp_path_factory.mktemp("repository")
    with fake_store() as store:
        world = World(root, replace(SETTINGS, repository=root), FakeRegistry(), store, FakeTriton(root))
        for version in (1, 2):
            world.register_times(version)
            world.deploy(f"d{version}")
        yield world


@pytest.fixture
def gateway(released: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gateway]:
    """Makes a gateway, a minute after the release."""
    follower, now = ReleaseFollower, released.now + timedelta(seconds=60)
    monkeypatch.setattr(triton_backend, "ReleaseFollower", lambda root: follower(root, now=lambda: now))
    return lambda **changes: Gateway(released.root, monkeypatch, **changes)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def settled(gateway: Gateway) -> None:
    while gateway.app._backend._predecessor._tasks:
        await asyncio.sleep(0.005)


# What counts against a version


@PATHS
def test_a_client_that_does_not_read_is_no_failure(gateway: Callable[..., Gateway], path: str) -> None:
    async def test() -> None:
        async with gateway(request_timeout_s=TIMEOUT_S).running() as it:
            await it.request(path, reads=False)
            assert await it.outcomes() == {("gone", "2"): 1}
            assert await it.metrics("gateway_failed_clients") == {("2",): 0}

    run(test)


def test_an_answer_that_has_begun_is_never_a_time_out(gateway: Callable[..., Gateway]) -> None:
    """The client reads slowly, and at this moment its connection waits for Triton's next piece."""

    async def test() -> None:
        async with gateway(request_timeout_s=TIMEOUT_S).running() as it:
            it.servers.says[2] = lambda: Reply(200, answered(2).head, complete=False)
            status, _, _ = await it.request(INFER)
            assert status == 200
            assert await it.outcomes() == {("gone", "2"): 1}
            assert it.servers.asked == [2], "it is not asked again"

    run(test)


@PATHS
def test_a_request_whose_turn_never_came_is_busy_and_a_slow_one_is_late(
    gateway: Callable[..., Gateway], path: str
) -> None:
    async def test() -> None:
        async with gateway(max_concurrency=1, request_timeout_s=TIMEOUT_S).running() as it:
            it.servers.waits.add(2)
            first, second = await asyncio.gather(it.request(path), it.request(path, address="10.0.0.2"))
            assert (first[0], second[0]) == (504, 504)
            assert "this one's turn did not come" in second[2].decode()
            assert second[1]["retry-after"] == "1"
            assert await it.outcomes() == {("timeout", "2"): 1, ("busy", "2"): 1}
            assert await it.metrics("gateway_failed_clients") == {("2",): 1}
            assert await it.metrics("gateway_clients") == {("2",): 2}

    run(test)


@PATHS
def test_what_is_late_is_the_version_that_was_live_when_it_came(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def test() -> None:
        async with gateway(request_timeout_s=TIMEOUT_S).running() as it:
            it.servers.waits.add(2)
            asking = asyncio.create_task(it.request(path))
            await asyncio.sleep(TIMEOUT_S / 4)
            seen = it.app._backend._follower.get(MODEL)
            later = replace(seen, release=replace(seen.release, active_version=3))
            monkeypatch.setattr(ReleaseFollower, "get", lambda self, model: later)
            assert (await asking)[0] == 504
            assert await it.outcomes() == {("timeout", "2"): 1}, "the release that mends it is not blamed"

    run(test)


def test_busy_is_no_failure_on_the_page_either() -> None:
    assert {"failed", "unavailable", "timeout"} == FAILURES


def test_the_first_failure_is_an_increase(gateway: Callable[..., Gateway]) -> None:
    async def test() -> None:
        async with gateway().running() as it:
            counts = await it.metrics("gateway_request_duration_seconds_count")
            assert counts == {(outcome, "2"): 0 for outcome in ("ok", "failed", "timeout")}
            assert set((await it.metrics("gateway_failed_asked_again_total")).values()) == {0}
            assert await it.metrics("gateway_baseline_failures_total") == {("1",): 0}
            assert await it.metrics("gateway_failed_clients") == {("2",): 0}

    run(test)


@pytest.mark.parametrize(("rows", "expected"), [(1, "1"), (2, "10"), (10, "10"), (11, "100"), (1001, "more")])
def test_times_are_told_apart_by_rows(rows: int, expected: str) -> None:
    assert class_of(rows) == expected


@PATHS
def test_the_rows_of_a_request_are_counted(gateway: Callable[..., Gateway], path: str) -> None:
    async def test() -> None:
        async with gateway().running() as it:
            await it.request(path)
            it.servers.says[2] = lambda: Reply(500, b"division by zero")
            await it.request(path)
            counts = await it.metrics("gateway_batch_duration_seconds_count")
            assert list(counts.values()) == [1], "only what was answered has a time"

    run(test)


# The version before


@PATHS
@pytest.mark.parametrize(("before_fails", "outcome"), [(True, "both"), (False, "alone")])
def test_what_the_release_fails_on_the_warm_version_is_asked(
    gateway: Callable[..., Gateway], path: str, *, before_fails: bool, outcome: str
) -> None:
    async def test() -> None:
        async with gateway().running() as it:
            it.servers.says[2] = lambda: Reply(500, b"division by zero")
            if before_fails:
                it.servers.says[1] = lambda: Reply(500, b"division by zero")
            status, _, text = await it.request(path)
            await settled(it)
            assert status >= 500
            assert b"division by zero" in text, "the client gets what the release said"
            assert it.servers.asked == [2, 1]
            counts = await it.metrics("gateway_failed_asked_again_total")
            assert {key: value for key, value in counts.items() if value} == {(outcome, "2"): 1}
            assert await it.metrics("gateway_failed_clients") == {("2",): 1}

    run(test)


@PATHS
def test_a_time_out_is_asked_again(gateway: Callable[..., Gateway], path: str) -> None:
    async def test() -> None:
        async with gateway(request_timeout_s=TIMEOUT_S).running() as it:
            it.servers.waits |= {1, 2}
            assert (await it.request(path))[0] == 504
            await settled(it)
            assert it.servers.asked == [2, 1]
            assert (await it.metrics("gateway_failed_asked_again_total"))["both", "2"] == 1

    run(test)


@PATHS
@pytest.mark.parametrize(
    "says",
    [
        pytest.param(lambda: Reply(400, b"wrong shape"), id="refused"),
        pytest.param(lambda: Reply(503, b"not ready"), id="not ready"),
        pytest.param(lambda: answered(2), id="answered"),
    ],
)
def test_nothing_else_is_asked_again(
    gateway: Callable[..., Gateway], path: str, says: Callable[[], Reply]
) -> None:
    async def test() -> None:
        async with gateway().running() as it:
            it.servers.says[2] = says
            await it.request(path)
            await settled(it)
            assert it.servers.asked == [2]

    run(test)


@PATHS
def test_a_share_that_the_version_before_answers_carries_its_version(
    gateway: Callable[..., Gateway], path: str
) -> None:
    async def test() -> None:
        async with gateway(baseline_percent=50).running() as it:
            versions = {
                number: (await it.request(path, x_canary_key=f"client {number}"))[1]["x-model-version"]
                for number in range(40)
            }
            assert set(versions.values()) == {"1", "2"}
            again = (await it.request(path, x_canary_key="client 0"))[1]["x-model-version"]
            assert again == versions[0]
            counts = await it.outcomes()
            assert set(counts) == {("ok", "1"), ("ok", "2")}

    run(test)


@PATHS
@pytest.mark.parametrize("beside", ["a share of the version before", "a canary"])
def test_what_live_got_because_another_version_failed_on_it_is_no_sample(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, path: str, beside: str
) -> None:
    if beside == "a canary":
        exposing(monkeypatch, Exposure("d3", 3, 50, 0, 60, key="opens"))

    async def test() -> None:
        async with gateway(baseline_percent=50).running() as it:
            for version in (1, 2, 3):
                it.servers.says[version] = lambda: Reply(500, b"division by zero")
            for number in range(40):
                await it.request(path, x_canary_key=f"client {number}")
                await settled(it)
            asked_again = await it.metrics("gateway_failed_asked_again_total")
            failed_before = (await it.metrics("gateway_baseline_failures_total"))["1",]
            by_candidate = it.servers.asked.count(3)
            assert (failed_before == 0) == (beside == "a canary")
            assert 0 < sum(asked_again.values()) == 40 - failed_before - by_candidate < 40

    run(test)


# Testers, and what a client may know of a candidate


def exposing(monkeypatch: pytest.MonkeyPatch, exposed: Exposure) -> None:
    monkeypatch.setattr(ReleaseFollower, "exposure", lambda self, model: exposed)


@PATHS
def test_a_tester_with_the_key_gets_the_candidate_and_nobody_else_does(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    exposing(monkeypatch, Exposure("d3", 3, 0, 0, 60, key="opens"))

    async def test() -> None:
        async with gateway().running() as it:

            async def version(**headers: str) -> str:
                return (await it.request(path, **headers))[1]["x-model-version"]

            assert await version(x_model_candidate="opens") == "3"
            for wrong in ("", "open", "opens ", "d3"):
                assert await version(x_model_candidate=wrong) == "2"
            assert await version() == "2"
            info = json.loads((await it.request(f"/model-info/{MODEL}", method="GET"))[2])
            assert info["candidate"]["deploy_id"] == "d3"
            assert b"opens" not in (await it.request("/status", method="GET"))[2]
            exposing(monkeypatch, Exposure("d3", 3, 0, 0, 60))
            assert await version(x_model_candidate="") == "2"
            info = json.loads((await it.request(f"/model-info/{MODEL}", method="GET"))[2])
            assert info["candidate"]["deploy_id"] == "", "without a secret it decides who meets the candidate"

    run(test)


def test_a_tester_whom_the_candidate_fails_is_answered_by_live(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    exposing(monkeypatch, Exposure("d3", 3, 0, 0, 60, key="opens"))

    async def test() -> None:
        async with gateway().running() as it:
            it.servers.says[3] = lambda: Reply(500, b"division by zero")
            status, headers, _ = await it.request(INFER, x_model_candidate="opens")
            assert (status, headers["x-model-version"]) == (200, "2")

    run(test)


def test_who_meets_a_candidate_first_can_not_be_known_without_the_secret() -> None:
    names = [b"client %d" % number for number in range(500)]
    first, second, earlier = (
        [Exposure("d3", 3, 30, 0, 60, key=key).answers(name) for name in names] for key in ("a", "b", "")
    )
    assert len({tuple(first), tuple(second), tuple(earlier)}) == 3
    assert 0.2 < np.mean(first) < 0.4
    grown = [Exposure("d3", 3, 60, 0, 60, key="a").answers(name) for name in names]
    assert all(later for now, later in zip(first, grown, strict=True) if now)
    assert "secret" not in repr(Exposure("d3", 3, 30, 0, 60, key="secret"))


# The end of a shadow


@pytest.mark.parametrize(("over", "outcome"), [(True, "dropped"), (False, "absent")])
def test_a_shadow_that_was_ended_meets_an_unloaded_engine_and_that_is_no_failure(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, *, over: bool, outcome: str
) -> None:
    exposed: list[Exposure | None] = [Exposure("d3", 3, 0, 100, 60, key="opens")]
    monkeypatch.setattr(ReleaseFollower, "exposure", lambda self, model: exposed[0])

    async def test() -> None:
        async with gateway().running() as it:
            it.servers.says[3] = lambda: Reply(400, b"Request for unknown model: 'm.v3' is not found")
            read = ReleaseFollower.look

            def look(self: ReleaseFollower) -> None:
                read(self)
                if over:
                    exposed[0] = None

            candidates: Candidates = it.app._backend._candidates
            await it.request(INFER)
            monkeypatch.setattr(ReleaseFollower, "look", look)
            while candidates._shadows:
                await asyncio.sleep(0.005)
            counts = await it.metrics("gateway_shadow_requests_total")
            assert {key: value for key, value in counts.items() if value} == {(outcome, "3"): 1}
            await it.request(INFER)
            assert it.servers.asked.count(3) == 1, "it stops at once"

    run(test)
