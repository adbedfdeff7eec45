"""The version that was live before: what it says of the release's failures, and the share that it goes on answering."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_code.gateway.http.admission import Admission
from ml_code.gateway.http.errors import BackendFailed, GatewayError, Interrupted, Unavailable
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton.predecessor import (
    ASK_AGAIN_S,
    MOST_AT_ONCE,
    PAUSE_S,
    Predecessor,
)
from ml_code.gateway.triton.predecessor_metrics import PredecessorMetrics
from ml_code.gateway.triton.release_follower import ReleaseFollower
from ml_code.triton_deploy.errors import Misconfigured
from tests.support.world import MODEL, World

ENGINE = "/v2/models/m.v1/versions/1/infer"
LIVE = "/v2/models/m/infer"
UNKNOWN_MODEL = b'{"error":"Request for unknown model: \'m.v1\' is not found"}'
UNPARSED = b'{"error":"failed to parse the request JSON buffer: Invalid value."}'
NAMES = [b"client %d" % number for number in range(2000)]


class Reply:
    """An answer of a Triton."""

    complete = True

    def __init__(self, status: int = 200, head: bytes = b'{"model_name":"m.v1"}') -> None:
        self.status, self.head, self.headers = status, head, [(b"content-length", b"%d" % len(head))]
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Scene:
    """Release 2 of model m, generation 7, with version 1 warm; Tritons that say what a test sets."""

    def __init__(self, **changes: Any) -> None:
        self.now = 0.0
        self.before: int | None = 1
        self.exposed: object = None
        self.says: Callable[[], Reply] = Reply
        self.slow = False
        self.asked: list[str] = []
        self.interrupted: list[bool] = []
        self.ages_s: list[float] = []
        self.for_clients: set[bool] = set()
        self.generation = 7
        self.metrics = PredecessorMetrics()
        self.admission = Admission(1, 8, 1 << 20)
        settings = GatewaySettings(
            **{"repository": Path("/none"), "canary_timeout_s": 30, "request_timeout_s": 30, **changes}
        )
        follower: Any = SimpleNamespace(
            get=lambda model: SimpleNamespace(
                release=SimpleNamespace(active_version=2, generation=self.generation)
            ),
            predecessor=self.predecessor,
            exposure=lambda model: self.exposed,
        )
        tritons: Any = SimpleNamespace(ask=self.ask)
        clock = lambda: self.now  # noqa: E731
        self.it = Predecessor(settings, tritons, follower, self.admission, self.metrics, clock)

    def predecessor(self, model: str, younger_than_s: float, *, for_clients: bool) -> int | None:
        self.ages_s.append(younger_than_s)
        self.for_clients.add(for_clients)
        return self.before

    async def ask(
        self,
        method: str,
        path: str,
        headers: bytes,
        body: bytes,
        *,
        candidate: bool = False,
        interrupted: bool = False,
    ) -> Reply:
        self.asked.append(path)
        self.interrupted.append(interrupted)
        assert candidate == (path == ENGINE), "it must not tell against a server"
        if path == LIVE:
            return Reply(head=b'{"model_name":"m"}')
        if self.slow:
            await asyncio.sleep(60)
        return self.says()

    async def settled(self) -> None:
        while self.it._tasks:
            await asyncio.sleep(0.001)

    def counted(self) -> dict[str, float]:
        counts = {}
        for metric in self.metrics.all:
            for sample in (sample for family in metric.collect() for sample in family.samples):
                if sample.name.endswith("_total") and sample.value:
                    outcome = sample.labels.get("outcome", "its own")
                    asked = "1" if outcome == "its own" else "2"
                    assert (sample.labels["model"], sample.labels["version"]) == ("m", asked)
                    counts[outcome] = sample.value
        return counts


def raises(error: GatewayError) -> Callable[[], Reply]:
    def answer() -> Reply:
        raise error

    return answer


# What the release failed on


@pytest.mark.parametrize(
    ("says", "outcomes"),
    [
        pytest.param(Reply, {"alone": 1}, id="it answers"),
        pytest.param(lambda: Reply(500, b"division by zero"), {"both": 1}, id="it fails"),
        pytest.param(lambda: Reply(400, b"unexpected input"), {"unknown": 1}, id="it takes other inputs"),
        pytest.param(lambda: Reply(400, UNKNOWN_MODEL), {"unknown": 1}, id="it is unloaded"),
        pytest.param(lambda: Reply(500, UNKNOWN_MODEL), {"unknown": 1}, id="it is being unloaded"),
        pytest.param(lambda: Reply(503, b"not ready"), {"unknown": 1}, id="no Triton is ready"),
        pytest.param(lambda: Reply(500, UNPARSED), {"unknown": 1}, id="Triton can't read it"),
        pytest.param(raises(Unavailable("away")), {"unknown": 1}, id="no Triton is there"),
        pytest.param(raises(BackendFailed("broken off")), {"unknown": 1}, id="the answer is broken off"),
    ],
)
def test_what_the_version_before_makes_of_a_failed_request(
    says: Callable[[], Reply], outcomes: dict[str, float]
) -> None:
    async def test() -> None:
        scene = Scene()
        scene.says = says
        scene.it.ask_again("m", b"", b"{}")
        await scene.settled()
        assert scene.asked == [ENGINE], "nobody else is asked, and no client gets the answer"
        assert scene.counted() == outcomes

    asyncio.run(test())


@pytest.mark.parametrize(("timed_out", "outcome"), [(True, "both"), (False, "unknown")])
def test_a_time_out_on_both_is_a_failure_of_both(*, timed_out: bool, outcome: str) -> None:
    async def test() -> None:
        scene = Scene(request_timeout_s=0.05)
        scene.slow = True
        scene.it.ask_again("m", b"", b"{}", timed_out=timed_out)
        await scene.settled()
        assert scene.counted()[outcome] == 1

    asyncio.run(test())


def test_one_a_second_of_each_model_is_asked_again_and_the_others_are_counted() -> None:
    async def test() -> None:
        scene = Scene()
        for _ in range(10):
            scene.it.ask_again("m", b"", b"{}")
        await scene.settled()
        scene.now = PAUSE_S
        scene.it.ask_again("m", b"", b"{}")
        await scene.settled()
        assert len(scene.asked) == 2
        assert scene.counted() == {"alone": 2, "skipped": 9}

    asyncio.run(test())


def test_few_are_asked_again_at_once_and_none_while_requests_wait() -> None:
    async def test() -> None:
        scene = Scene()
        scene.slow = True
        for second in range(10):
            scene.now = second * PAUSE_S
            scene.it.ask_again("m", b"", b"{}")
        await asyncio.sleep(0.01)
        assert len(scene.asked) == MOST_AT_ONCE
        assert scene.counted() == {"skipped": 10 - MOST_AT_ONCE}
        scene.now = 100
        await scene.admission.enter()
        waits = asyncio.create_task(scene.admission.enter())
        await asyncio.sleep(0)
        scene.it.ask_again("m", b"", b"{}")
        assert scene.counted() == {"skipped": 11 - MOST_AT_ONCE}
        waits.cancel()
        await scene.it.stop()
        assert not scene.it._tasks
        scene.it.ask_again("m", b"", b"{}")
        assert not scene.it._tasks, "what ends with the gateway is not asked again"

    asyncio.run(test())


def test_nothing_is_asked_again_without_a_warm_version_or_of_an_old_release() -> None:
    async def test() -> None:
        scene = Scene()
        scene.before = None
        scene.it.ask_again("m", b"", b"{}")
        await scene.settled()
        assert (scene.asked, scene.counted(), scene.ages_s) == ([], {}, [ASK_AGAIN_S])
        assert scene.for_clients == {False}

    asyncio.run(test())


def test_one_that_ended_a_triton_gets_nothing_more_until_the_next_release(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        scene = Scene()
        scene.says = raises(Interrupted("ended"))
        for second in range(3):
            scene.now = second * PAUSE_S
            scene.it.ask_again("m", b"", b"{}")
            await scene.settled()
        assert scene.asked == [ENGINE]
        scene.generation, scene.says, scene.now = 8, Reply, 100
        scene.it.ask_again("m", b"", b"{}")
        await scene.settled()
        assert len(scene.asked) == 2

    asyncio.run(test())
    assert caplog.text.count("gets nothing more from this gateway") <= 1


# Its share


def exchange(name: bytes = b"") -> Any:
    return SimpleNamespace(scope={"headers": [(b"x-canary-key", name)] if name else []})


def test_no_share_by_default() -> None:
    scene = Scene()
    assert all(scene.it.of("m", exchange(name)) is None for name in NAMES)
    assert scene.ages_s == []


def test_a_share_of_the_clients_stays_and_each_gets_one_version() -> None:
    scene = Scene(baseline_percent=20, baseline_minutes=10)
    first = [scene.it.of("m", exchange(name)) for name in NAMES]
    assert (set(scene.ages_s), scene.for_clients) == ({600}, {True})
    assert 0.17 < first.count(1) / len(NAMES) < 0.23
    other = Scene(baseline_percent=20)
    assert [other.it.of("m", exchange(name)) for name in NAMES] == first, "on every gateway"
    unnamed = Counter(scene.it.of("m", exchange()) for _ in range(2000))
    assert 0.15 < unnamed[1] / 2000 < 0.25


def test_no_share_beside_a_canary_or_without_a_warm_version() -> None:
    scene = Scene(baseline_percent=50)
    scene.exposed = object()
    assert all(scene.it.of("m", exchange(name)) is None for name in NAMES)
    scene.exposed, scene.before = None, None
    assert all(scene.it.of("m", exchange(name)) is None for name in NAMES)


def test_its_answer_has_the_public_name() -> None:
    async def test() -> None:
        scene = Scene()
        reply = await scene.it.ask("m", 1, b"", b"{}")
        assert reply.head == b'{"model_name":"m"}'
        assert scene.asked == [ENGINE]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("says", "failures"),
    [
        pytest.param(lambda: Reply(500, b"division by zero"), {"its own": 1}, id="it fails"),
        pytest.param(lambda: Reply(400, UNKNOWN_MODEL), {}, id="it is unloaded"),
        pytest.param(raises(Unavailable("away")), {}, id="no Triton is there"),
        pytest.param(raises(Interrupted("ended")), {}, id="its Triton ended"),
        pytest.param(None, {}, id="it is slow"),
    ],
)
def test_what_it_does_not_answer_the_release_answers(
    says: Callable[[], Reply] | None, failures: dict[str, float]
) -> None:
    async def test() -> None:
        scene = Scene(**({} if says else {"canary_timeout_s": 0.05}))
        scene.slow = says is None
        scene.says = says or Reply
        reply = await scene.it.ask("m", 1, b"", b"{}")
        assert (reply.status, scene.asked) == (200, [ENGINE, LIVE])
        assert scene.counted() == failures, "the two versions' failures are compared"
        ended = says is not None and scene.it._left == {"m": 7}
        assert scene.interrupted[1] == ended, "a request that ended a Triton is repeated as such"

    asyncio.run(test())


@pytest.mark.parametrize(
    ("variable", "value"), [("GATEWAY_BASELINE_PERCENT", "51"), ("GATEWAY_BASELINE_MINUTES", "61")]
)
def test_a_share_has_limits(variable: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=variable):
        GatewaySettings.from_env({"TRITON_DEPLOY_REPOSITORY": "/models", variable: value})


# Which version it is


def test_it_is_the_warm_version_before_a_young_release_and_none_after_a_revert(world: World) -> None:
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    passed = [world.now]
    follower = ReleaseFollower(world.root, now=lambda: passed[0])

    def before() -> int | None:
        follower.look()
        return follower.predecessor(MODEL, 60)

    assert follower.predecessor(MODEL, 60) is None
    assert before() == 1
    passed[0] += timedelta(seconds=61)
    assert before() is None, "the release is old"
    passed[0] = world.now
    current = world.root / MODEL / "current.json"
    said = json.loads(current.read_text())
    for changes in (
        {"warm_versions": []},
        {"active_version": 1, "previous_version": 2, "warm_versions": [2]},
    ):
        current.write_text(json.dumps({**said, **changes}))
        assert ReleaseFollower(world.root).predecessor(MODEL, 60) is None
        other = ReleaseFollower(world.root, now=lambda: passed[0])
        other.look()
        assert other.predecessor(MODEL, 60) is None, changes


def test_clients_of_a_release_with_other_outputs_do_not_meet_the_version_before(world: World) -> None:
    for version in (1, 2):
        world.register_times(version)
        world.deploy(f"d{version}")
    manifest = world.folder.versions.path(1) / "manifest.json"
    said = json.loads(manifest.read_text())

    def before(schema: object) -> tuple[int | None, int | None]:
        manifest.write_text(json.dumps({**said, "schema": schema}))
        follower = ReleaseFollower(world.root, now=lambda: world.now)
        follower.look()
        return follower.predecessor(MODEL, 60), follower.predecessor(MODEL, 60, for_clients=True)

    schema = said["schema"]
    assert before(schema) == (1, 1)
    assert before({**schema, "outputs": []}) == (1, None)
    assert before("torn") == (1, None)
