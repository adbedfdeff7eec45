"""The gateway's parts without a server: what is followed, what is admitted, what is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.gateway.front.last_minutes import LastMinutes, quantile
from ml_code.gateway.http.admission import Admission
from ml_code.gateway.http.body import Body, Disconnected
from ml_code.gateway.http.errors import Busy, Encoded, Malformed, TooLarge
from ml_code.gateway.http.metrics import BUCKETS_S, Sums
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton.deploy_history import DeployHistory
from ml_code.gateway.triton.release_follower import ReleaseFollower
from ml_code.triton_deploy.errors import DeployError, Misconfigured
from tests.support.world import MODEL, World

# Settings


def test_the_defaults_need_only_a_repository() -> None:
    settings = GatewaySettings.from_env({"TRITON_DEPLOY_REPOSITORY": "/models"})
    assert settings == GatewaySettings(repository=Path("/models"))
    assert settings.poll_interval_s == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_BACKEND", "onnx"),
        ("GATEWAY_NAN_POLICY", "maybe"),
        ("GATEWAY_ACCESS_LOG", "yes"),
        ("GATEWAY_TRITON_URLS", "http://triton:8000"),
        ("GATEWAY_TRITON_URLS", ","),
        ("GATEWAY_WORKERS", "0"),
        ("GATEWAY_MAX_CONCURRENCY", "0"),
        ("GATEWAY_PORT", "http"),
        ("GATEWAY_MAX_BODY_BYTES", "-1"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(variable: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as caught:
        GatewaySettings.from_env({"TRITON_DEPLOY_REPOSITORY": "/models", variable: value})
    assert caught.value.hint


@pytest.mark.parametrize(("variable", "value"), [("GATEWAY_MODEL", "../x"), ("GATEWAY_ALIAS", "latest")])
def test_names_are_checked(variable: str, value: str) -> None:
    with pytest.raises(DeployError):
        GatewaySettings.from_env({"TRITON_DEPLOY_REPOSITORY": "/models", variable: value})


def test_triton_needs_the_repository_and_the_local_backend_does_not() -> None:
    with pytest.raises(Misconfigured, match="TRITON_DEPLOY_REPOSITORY"):
        GatewaySettings.from_env({})
    assert GatewaySettings.from_env({"GATEWAY_BACKEND": "local"}).repository is None


def test_the_key_is_not_printed() -> None:
    assert "hidden" not in repr(GatewaySettings(api_key="hidden"))


# The release that is live


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def released(world: World) -> World:
    """A model with one release."""
    world.register_times(1)
    world.deploy("d1")
    return world


def current(world: World) -> Path:
    return world.root / MODEL / "current.json"


def live(follower: ReleaseFollower) -> int:
    followed = follower.get(MODEL)
    assert followed is not None
    return followed.release.active_version


def test_a_release_is_followed_with_its_signature(released: World) -> None:
    follower = ReleaseFollower(released.root)
    assert follower.get(MODEL) is None
    follower.look()
    followed = follower.get(MODEL)
    assert followed is not None
    assert followed.schema is not None
    assert [tensor.name for tensor in followed.schema.inputs] == ["x"]
    released.register_times(2)
    released.deploy("d2")
    assert live(follower) == 1
    follower.look()
    assert live(follower) == 2
    followed = follower.get(MODEL)
    assert followed is not None
    assert followed.swaps == 1


@pytest.mark.parametrize("damage", ["torn", "gone", "empty", "other", "folder"])
def test_the_last_good_release_stays_while_the_file_is_damaged(released: World, damage: str) -> None:
    clock = Clock()
    follower = ReleaseFollower(released.root, clock)
    follower.look()
    text = current(released).read_text()
    clock.now = 7
    if damage in ("gone", "folder"):
        current(released).unlink()
        if damage == "folder":
            current(released).mkdir()
    else:
        broken = {"torn": text[: len(text) // 2], "empty": "", "other": text.replace(MODEL, "another")}
        current(released).write_text(broken[damage])
    follower.look()
    assert live(follower) == 1
    assert follower.staleness_s(MODEL) == 7
    if damage == "folder":
        current(released).rmdir()
    current(released).write_text(text)
    follower.look()
    assert follower.staleness_s(MODEL) == 0


def test_generations_never_go_backwards(released: World) -> None:
    follower = ReleaseFollower(released.root)
    old = current(released).read_text()
    released.register_times(2)
    released.deploy("d2")
    follower.look()
    current(released).write_text(old)
    follower.look()
    assert live(follower) == 2


def test_a_torn_file_at_the_start_is_no_release_yet(released: World) -> None:
    text = current(released).read_text()
    current(released).write_text(text[:20])
    follower = ReleaseFollower(released.root)
    follower.look()
    assert follower.get(MODEL) is None
    current(released).write_text(text)
    follower.look()
    assert live(follower) == 1


def test_following_writes_nothing(released: World) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in released.root.rglob("*")}

    before = state()
    ReleaseFollower(released.root).look()
    DeployHistory(released.root, MODEL).look(1)
    assert state() == before


def test_history_shows_releases_and_failures(released: World) -> None:
    history = DeployHistory(released.root, MODEL)
    history.look(1)
    assert history.failures == ()
    released.register_times(2, expected=5)
    with pytest.raises(DeployError):
        released.deploy("bad")
    history.look(1)
    history.look(1)
    (failure,) = history.failures
    assert (failure.version, failure.step, failure.deploy_id) == (2, "smoke", "bad")
    assert "y is off" in failure.error
    released.register_times(3)
    released.deploy("d3")
    history.look(2)
    assert [release.active_version for release in history.releases] == [3, 1]
    assert [failure.version for failure in history.failures] == [2]


# Admission


def test_turns_are_given_in_order_and_the_queue_is_bounded() -> None:
    async def scenario() -> None:
        admission = Admission(1, 2, 0)
        await admission.enter()
        order: list[int] = []

        async def ask(number: int) -> None:
            await admission.enter()
            order.append(number)

        waiting = [asyncio.create_task(ask(number)) for number in range(2)]
        await asyncio.sleep(0)
        assert admission.waiting == 2
        with pytest.raises(Busy) as caught:
            async with asyncio.timeout(30):
                await admission.enter()
        assert caught.value.headers["Retry-After"]
        admission.leave()
        admission.leave()
        await asyncio.gather(*waiting)
        assert order == [0, 1]

    asyncio.run(scenario())


def test_who_gives_up_in_the_moment_in_which_its_turn_would_come_is_passed_over() -> None:
    """As when all time-outs of a Triton that hangs end together."""

    async def scenario() -> None:
        admission = Admission(1, 2, 0)
        await admission.enter()
        impatient, patient = (asyncio.create_task(admission.enter()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        admission.leave()
        await patient
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert admission.waiting == 0

    asyncio.run(scenario())


@given(st.lists(st.sampled_from(["enter", "leave", "cancel"]), max_size=60))
def test_no_turn_is_lost_or_given_twice(actions: list[str]) -> None:
    async def scenario() -> None:
        admission = Admission(2, 3, 0)
        tasks: list[asyncio.Task[None]] = []
        inside = 0

        def settle() -> None:
            nonlocal inside
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                if not task.cancelled() and task.exception() is None:
                    inside += 1

        for action in actions:
            if action == "enter":
                tasks.append(asyncio.create_task(admission.enter()))
            elif action == "cancel" and tasks:
                # Also in the moment in which its turn comes.
                if inside:
                    inside -= 1
                    admission.leave()
                tasks[0].cancel()
            elif action == "leave" and inside:
                inside -= 1
                admission.leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            settle()
            assert inside <= 2
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
                inside += 1
        for _ in range(inside):
            admission.leave()
        async with asyncio.timeout(30):
            await admission.enter()
            await admission.enter()
        assert admission.waiting == 0

    asyncio.run(scenario())


# Bodies


def body(
    *chunks: bytes, limit: int = 10, memory: int = 100, end: bool = True, **headers: str
) -> tuple[Body, Admission]:
    messages: Iterator[dict[str, Any]] = iter(
        [
            {"type": "http.request", "body": chunk, "more_body": not end or index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    admission = Admission(1, 1, memory)
    return Body(receive, lines, limit, admission), admission


def test_a_body_is_put_together() -> None:
    whole, admission = body(b"ab", b"", b"cd")
    assert asyncio.run(whole.read()) == b"abcd"
    assert whole.complete
    whole.release()
    admission.hold(100)


def test_a_body_is_cut_off_at_its_limit_without_reading_on() -> None:
    whole, _ = body(*[b"x" * 6] * 1000)
    with pytest.raises(TooLarge):
        asyncio.run(whole.read())
    assert not whole.complete


def test_an_announced_size_is_refused_before_anything_is_read() -> None:
    with pytest.raises(TooLarge):
        body(content_length="11")


def test_memory_for_bodies_is_bounded_and_given_back() -> None:
    whole, admission = body(b"x" * 60, b"x" * 60, limit=1000)
    with pytest.raises(Busy):
        asyncio.run(whole.read())
    whole.release()
    admission.hold(100)


def test_a_client_that_goes_away_is_noticed() -> None:
    whole, _ = body(b"x", end=False)
    with pytest.raises(Disconnected):
        asyncio.run(whole.read())


def test_compressed_bodies_and_strange_lengths_are_refused() -> None:
    with pytest.raises(Encoded):
        body(content_encoding="gzip")
    for length in ("-1", "1.5", "x", "9" * 30):
        with pytest.raises(Malformed):
            body(inference_header_content_length=length)


def test_only_the_beginning_of_a_streamed_body_is_read_ahead() -> None:
    whole, _ = body(b"abc", b"def", b"ghi")
    assert asyncio.run(whole.read(4)) == b"abcdef"
    assert not whole.complete


# The last minutes


def sums(count: int, failed: int, within: dict[float, int]) -> Sums:
    buckets, total = [], 0
    for limit in BUCKETS_S:
        total += within.get(limit, 0)
        buckets.append(float(total))
    return Sums(count, failed, (*buckets, float(count)))


def test_the_last_minutes_are_differences() -> None:
    given_sums = iter(
        [sums(10, 1, {0.001: 10}), sums(110, 6, {0.001: 10, 0.01: 100}), sums(110, 6, {0.001: 10, 0.01: 100})]
    )
    minutes = LastMinutes(lambda: {("m", "1"): next(given_sums), ("other", "1"): sums(900, 900, {})})
    for now in (0, 10, 20):
        minutes.take(now)
    busy, quiet = minutes.points("m")
    assert busy["rate"] == 10
    assert busy["failed"] == 0.05
    assert busy["p50_s"] == pytest.approx(0.0075)
    assert quiet["rate"] == 0
    assert quiet["p50_s"] is None


def test_traffic_is_told_by_version() -> None:
    before = {("m", "9"): sums(10, 0, {0.001: 10}), ("m", "8"): sums(5, 0, {0.001: 5})}
    after = {
        **before,
        ("m", "9"): sums(20, 0, {0.001: 20}),
        ("m", "10"): sums(30, 3, {0.01: 30}),
        ("m", ""): sums(7, 7, {}),
        ("n", "1"): sums(1, 0, {0.001: 1}),
    }
    given = iter([before, after])
    minutes = LastMinutes(lambda: next(given))
    assert minutes.versions("m") == []
    minutes.take(0)
    assert minutes.versions("m") == []
    minutes.take(60)
    ten, nine = minutes.versions("m")
    assert (ten["version"], ten["requests"], ten["failed"]) == (10, 30, 0.1)
    assert (nine["version"], nine["requests"], nine["failed"]) == (9, 10, 0)
    assert nine["p95_s"] <= 0.001 < ten["p50_s"]
    assert minutes.length_s == 60


def test_a_quantile_beyond_the_buckets_is_the_last_limit() -> None:
    assert quantile(0.95, sums(10, 0, {})) == BUCKETS_S[-1]


def test_json_is_what_the_page_needs() -> None:
    minutes = LastMinutes(lambda: {})
    minutes.take(0)
    minutes.take(1)
    assert json.loads(json.dumps(minutes.points("m")))[0]["p95_s"] is None
