"""A connection to a Triton carries one client's answer at a time, and a request that ends a Triton does not end all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_code.gateway.http.admission import Admission
from ml_code.gateway.http.errors import BackendFailed, Interrupted, Unavailable
from ml_code.gateway.http.repeats import STOP_S, WITHIN_S, Repeats
from ml_code.gateway.settings import GatewaySettings
from ml_code.gateway.triton.candidate_metrics import CandidateMetrics
from ml_code.gateway.triton.candidates import Candidates
from ml_code.gateway.triton.connection import Broken, Connection, Side
from ml_code.gateway.triton.pool import Pool, Reply
from ml_code.gateway.triton.upstream import FRESH_S, Tritons
from ml_code.triton_deploy.rules.canary import Exposure

T = TypeVar("T")


class Wire:
    """A transport without a network: what was written, and how it ended."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = self.paused = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(test())


def connected() -> tuple[Connection, Wire]:
    connection, wire = Connection(asyncio.get_running_loop()), Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    return connection, wire


def answer(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


# One connection


def test_a_connection_is_used_again_after_an_answer_that_was_taken() -> None:
    async def test() -> None:
        connection, wire = connected()
        for body in (b"first", b"", b"x" * 500_000):
            connection.send(b"ask", whole=True)
            connection.data_received(answer(body))
            await connection.await_head()
            assert connection.take() == body
            assert connection.finish()
            assert connection.request is connection.answer is Side.IDLE
        assert not wire.aborted

    run(test)


def test_an_answer_that_was_not_taken_ends_the_connection() -> None:
    async def test() -> None:
        connection, wire = connected()
        connection.send(b"ask", whole=True)
        connection.data_received(answer(b"x" * 100_000)[:80_000])
        await connection.await_head()
        connection.take()
        connection.data_received(answer(b"x" * 100_000)[80_000:])
        assert connection.answered, "it arrived while the client did not read"
        assert not connection.finish()
        assert wire.aborted

    run(test)


@pytest.mark.parametrize(
    "sent_whole",
    [pytest.param(True, id="the answer is not whole"), pytest.param(False, id="the request is not whole")],
)
def test_a_side_that_is_not_done_ends_the_connection(sent_whole: bool) -> None:
    async def test() -> None:
        connection, _ = connected()
        connection.send(b"ask", whole=sent_whole)
        connection.data_received(answer(b"refused")[: -1 if sent_whole else None])
        connection.take()
        assert not connection.finish()
        assert not connection.open

    run(test)


def test_what_nobody_asked_for_ends_the_connection() -> None:
    async def test() -> None:
        connection, _ = connected()
        connection.data_received(answer(b"of nobody"))
        assert not connection.open

        connection, _ = connected()
        connection.send(b"ask", whole=True)
        connection.data_received(answer(b"mine") + answer(b"of nobody"))
        await connection.await_head()
        assert connection.take() == b"mine"
        assert not connection.finish()

    run(test)


def test_an_answer_that_says_close_is_the_last() -> None:
    async def test() -> None:
        connection, _ = connected()
        connection.send(b"ask", whole=True)
        connection.data_received(answer(b"last", "Connection: close\r\n"))
        await connection.await_head()
        assert connection.take() == b"last"
        assert not connection.finish()

    run(test)


def test_a_connection_that_ends_says_whether_an_answer_had_begun() -> None:
    async def test() -> None:
        connection, _ = connected()
        connection.send(b"ask", whole=True)
        connection.connection_lost(None)
        with pytest.raises(Broken):
            await connection.await_head()

        connection, _ = connected()
        connection.send(b"ask", whole=True)
        connection.data_received(b"HTTP/1.1 200 OK\r\n")
        connection.connection_lost(None)
        with pytest.raises(BackendFailed):
            await connection.await_head()

    run(test)


def test_triton_is_not_read_from_while_a_client_does_not_read() -> None:
    async def test() -> None:
        connection, wire = connected()
        connection.send(b"ask", whole=True)
        connection.data_received(answer(b"x" * 10_000_000)[:300_000])
        assert wire.paused
        assert connection.take()
        assert not wire.paused

    run(test)


# An answer that comes in pieces of one byte takes a second.
@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.integers(1, 90_000), st.booleans(), st.booleans()), max_size=6
    )
)
def test_no_client_gets_bytes_of_anothers_answer(
    asked: list[tuple[int, int, bool, bool]],
) -> None:
    """Each exchange has a byte of its own; the answer comes in pieces, and is taken or left at any moment."""

    async def test() -> None:
        connection, _ = connected()
        for number, (size, piece, taken_early, read_to_the_end) in enumerate(asked):
            own = bytes([number])
            connection.send(b"ask", whole=True)
            data = answer(own * size)
            got = b""
            for at in range(0, len(data), piece):
                connection.data_received(data[at : at + piece])
                if taken_early:
                    got += connection.take()
            assert connection.status == 200
            if read_to_the_end:
                got += connection.take()
                assert len(got) == size
            assert got == own * len(got)
            if not connection.finish():
                connection, _ = connected()

    run(test)


# A pool of them


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Sets what the Triton at each port does with its requests in turn, in the end that it answers; returns who was asked."""
    asked: list[str] = []
    does: dict[str, list[object]] = {}

    async def connect(pool: Pool, idle_s: float) -> Connection:
        asked.append(pool.address[-1])
        steps = does[pool.address[-1]]
        step = steps.pop(0) if steps else OK
        if isinstance(step, OSError):
            raise step
        connection, _ = connected()
        if step == "ends":
            asyncio.get_running_loop().call_soon(connection.connection_lost, None)
        elif step == "waits":
            pass
        elif step == "breaks off":
            asyncio.get_running_loop().call_soon(connection.data_received, OK[:-1])
            asyncio.get_running_loop().call_soon(connection.connection_lost, None)
        elif step == "ends late":
            asyncio.get_running_loop().call_later(3 * CANARY_TIMEOUT_S, connection.connection_lost, None)
        else:
            assert isinstance(step, bytes)
            asyncio.get_running_loop().call_soon(connection.data_received, step)
        return connection

    monkeypatch.setattr(Pool, "_connection", connect)

    def set_up(**steps: list[object]) -> list[str]:
        does.update({name[-1]: list(step) for name, step in steps.items()})
        return asked

    return set_up


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


CANARY_TIMEOUT_S = 0.1
REAL_CONNECTION = Pool._connection
OK = answer(b"{}")
GONE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 13\r\n\r\nunknown model"
ADDRESSES = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def tritons(clock: Clock | None = None, count: int = 3) -> tuple[Tritons, Repeats]:
    repeats = Repeats(clock or Clock())
    return Tritons(ADDRESSES[:count], 1.0, repeats), repeats


def counted(repeats: Repeats) -> dict[str, float]:
    return {
        sample.name: sample.value
        for metric in repeats.all
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def ask(servers: Tritons, **options: Any) -> Reply:
    return await servers.ask("POST", "/v2/models/m/infer", b"", b"{}", **options)


def test_a_request_whose_triton_ended_is_repeated_once(script: Callable[..., list[str]]) -> None:
    async def test() -> None:
        servers, repeats = tritons()
        asked = script(t1=["ends"], t2=["ends", OK], t3=["ends", OK])
        with pytest.raises(Unavailable):
            await ask(servers)
        assert len(asked) == 2, "the third is left alone"
        assert counted(repeats)["gateway_repeats_stopped_total"] == 1
        assert servers.busy == 0

    run(test)


def test_after_two_tritons_ended_of_one_request_none_is_repeated_for_a_minute(
    script: Callable[..., list[str]],
) -> None:
    async def test() -> None:
        clock = Clock()
        servers, repeats = tritons(clock)
        asked = script(t1=["ends"] * 9, t2=["ends"] * 9, t3=["ends"] * 9)
        with pytest.raises(Unavailable):
            await ask(servers)
        asked.clear()
        clock.now = STOP_S - 1
        with pytest.raises(Unavailable) as refused:
            await ask(servers)
        assert len(asked) == 1
        assert refused.value.headers["Retry-After"] == "1"
        assert counted(repeats)["gateway_unrepeated_requests_total"] == 1
        asked.clear()
        clock.now = STOP_S + 1
        with pytest.raises(Unavailable):
            await ask(servers)
        assert len(asked) == 2

    run(test)


def test_two_tritons_that_end_far_apart_stop_no_repeats() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    began = repeats.begin()
    clock.now = WITHIN_S + 1
    repeats.ended_again(began)
    repeats.begin()
    assert counted(repeats) == {
        "gateway_repeated_requests_total": 2,
        "gateway_unrepeated_requests_total": 0,
        "gateway_repeats_stopped_total": 0,
    }


def test_what_ended_a_candidates_triton_is_repeated_to_live_and_to_nobody_else(
    script: Callable[..., list[str]],
) -> None:
    async def test() -> None:
        servers, repeats = tritons()
        asked = script(t1=["ends"] * 2, t2=["ends"] * 2, t3=["ends"] * 2)
        with pytest.raises(Interrupted):
            await ask(servers, candidate=True)
        assert len(asked) == 1
        with pytest.raises(Unavailable):
            await ask(servers, interrupted=True)
        assert len(asked) == 2, "the live version's Triton ended too: no third one"
        assert counted(repeats)["gateway_repeats_stopped_total"] == 1
        with pytest.raises(Unavailable, match="not repeated"):
            await ask(servers, interrupted=True)
        assert len(asked) == 2

    run(test)


def test_a_streamed_body_is_not_repeated(script: Callable[..., list[str]]) -> None:
    async def rest() -> AsyncIterator[bytes]:
        yield b"more"

    async def test() -> None:
        servers, repeats = tritons()
        asked = script(t1=["ends"], t2=["ends"], t3=["ends"])
        with pytest.raises(Unavailable):
            await ask(servers, more=rest())
        assert len(asked) == 1
        assert counted(repeats)["gateway_repeated_requests_total"] == 0

    run(test)


@pytest.mark.parametrize(
    "steps",
    [
        {"t1": [GONE], "t2": [GONE]},
        {"t1": [GONE, "ends"], "t2": ["ends", GONE]},
        {"t1": [OSError()], "t2": [OSError()]},
        {"t1": [GONE, b"HTTP/1.1 2"], "t2": [b"junk", GONE]},
        {"t1": ["waits"], "t2": ["waits"]},
        {"t1": [GONE, "waits"], "t2": ["waits", GONE]},
    ],
)
def test_no_server_counts_as_busy_when_its_request_is_over(
    script: Callable[..., list[str]], steps: dict[str, list[object]]
) -> None:
    async def test() -> None:
        servers, _ = tritons(count=2)
        script(**steps)
        for _ in range(3):
            with contextlib.suppress(Unavailable, BackendFailed, TimeoutError):
                async with asyncio.timeout(0.05):
                    with await ask(servers) as reply:
                        assert servers.busy >= 1
                    reply.close()
            assert servers.busy == 0

    run(test)


# A candidate, on one of them


class Canary:
    """A gateway's candidate 2 of model m that answers everybody, on the second of two Tritons as its record says."""

    def __init__(self, metrics: CandidateMetrics, *, mirrored: bool = False) -> None:
        self.metrics = metrics
        share, mirror = (0, 100) if mirrored else (100, 0)
        self.exposed: Exposure | None = Exposure(
            "d2", 2, share, mirror, 60, "127.0.0.1:12", ("127.0.0.1:11", "127.0.0.1:12")
        )
        self.servers, self.repeats = tritons(count=2)
        settings = GatewaySettings(
            repository=Path("/none"),
            triton_urls=ADDRESSES[:2],
            canary_timeout_s=CANARY_TIMEOUT_S,
            request_timeout_s=1,
        )
        follower: Any = SimpleNamespace(exposure=lambda model: self.exposed, look=self.reads)
        self.candidates = Candidates(settings, self.servers, follower, Admission(8, 8, 1 << 20), metrics)
        self.candidates.look("m")

    def reads(self) -> None:
        """Read the records once more."""

    async def ask(self) -> str:
        """Ask as a client does; return who was to answer, and whose headers came: the candidate's one is renamed."""
        exchange: Any = SimpleNamespace(scope={"headers": []})
        candidate, shadow = self.candidates.of("m", exchange)
        if candidate is not None:
            reply = await self.candidates.ask("m", candidate, b"", b"{}")
        else:
            reply = await ask(self.servers)
        with reply:
            assert reply.status == 200
            if shadow is not None:
                self.candidates.mirror("m", shadow, b"", b"{}", reply, 0.1)
        return "candidate" if candidate else "shadow" if shadow else "live"

    def counted(self, outcome: str) -> float:
        return sum(
            sample.value
            for metric in self.metrics.all
            for family in metric.collect()
            for sample in family.samples
            if sample.name in ("gateway_canary_failures_total", "gateway_shadow_requests_total")
            and sample.labels == {"model": "m", "version": "2", "outcome": outcome}
        )


@pytest.fixture
def canary() -> Canary:
    return Canary(CandidateMetrics())


def test_a_candidate_is_asked_on_its_own_triton_only(script: Callable[..., list[str]]) -> None:
    async def test() -> None:
        canary = Canary(CandidateMetrics())
        asked = script(t1=[], t2=[])
        for _ in range(6):
            assert await canary.ask() == "candidate"
        assert set(asked) == {"2"}

    run(test)


def test_a_record_that_names_no_triton_leaves_the_candidate_on_all(
    script: Callable[..., list[str]], canary: Canary
) -> None:
    """As a deployer of earlier code writes it."""

    async def test() -> None:
        assert canary.exposed is not None
        canary.exposed = replace(canary.exposed, deploy_id="d3", triton="", tritons=())
        canary.candidates.look("m")
        asked = script(t1=[], t2=[])
        for _ in range(6):
            assert await canary.ask() == "candidate"
        assert set(asked) == {"1", "2"}

    run(test)


def test_of_a_candidate_that_may_be_on_all_it_is_told_when_none_has_it(
    script: Callable[..., list[str]], canary: Canary
) -> None:
    async def test() -> None:
        assert canary.exposed is not None
        canary.exposed = replace(canary.exposed, deploy_id="d3", triton="", tritons=())
        canary.candidates.look("m")
        script(t1=[GONE, OK], t2=[GONE, OK])
        assert await canary.ask() == "candidate"
        assert (canary.counted("absent"), canary.counted("failed")) == (1, 0)
        assert await canary.ask() == "live"

    run(test)


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("ends", "ended"),
        ("breaks off", "ended"),
        (b"junk", "ended"),
        (OSError(), "absent"),
        (GONE, "absent"),
    ],
)
def test_a_candidate_whose_triton_ended_gets_nothing_more_and_live_answers_on_another(
    script: Callable[..., list[str]],
    canary: Canary,
    caplog: pytest.LogCaptureFixture,
    step: object,
    outcome: str,
) -> None:
    async def test() -> None:
        asked = script(t1=[], t2=[step])
        assert await canary.ask() == "candidate"
        # One that has lost the candidate may have the live version.
        assert asked == ["2", "1"] or step is GONE
        assert canary.counted(outcome) == 1
        assert counted(canary.repeats)["gateway_repeated_requests_total"] == (outcome == "ended")
        for share in (25, 50):
            # A later step of the same deployment, which began before anybody saw what had happened.
            assert canary.exposed is not None
            canary.exposed = replace(canary.exposed, share_percent=share * 2)
            canary.candidates.look("m")
            assert await canary.ask() == "live"
        assert canary.counted(outcome) == 1
        canary.exposed = replace(canary.exposed, deploy_id="d3")
        canary.candidates.look("m")
        assert await canary.ask() == "candidate", "the next deployment begins anew"

    with caplog.at_level(logging.WARNING, "ml_code.gateway"):
        run(test)
    assert caplog.text.count("gets nothing more from this gateway") == 1


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(b"HTTP/1.1 500 Internal\r\nContent-Length: 0\r\n\r\n", id="it fails"),
        pytest.param(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull", id="its queue is full"),
        pytest.param("waits", id="it is slow"),
    ],
)
def test_a_candidate_that_fails_or_is_slow_goes_on_and_is_counted(
    script: Callable[..., list[str]], canary: Canary, refusal: object
) -> None:
    async def test() -> None:
        script(t1=[], t2=[refusal] * 3)
        canary.servers._pools[1].asked_last()
        for _ in range(3):
            assert await canary.ask() == "candidate"
        assert canary.counted("failed") == 3
        assert canary.counted("ended") == canary.counted("absent") == 0
        await canary.candidates.stop()
        assert canary.servers.busy == 0

    run(test)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_triton_that_ends_after_the_client_was_answered_is_seen(
    script: Callable[..., list[str]], *, mirrored: bool
) -> None:
    """A candidate that hangs before it ends its Triton; and one whose sockets outlive that for a while."""

    async def test() -> None:
        canary = Canary(CandidateMetrics(), mirrored=mirrored)
        script(t1=[], t2=["ends late"] * 2)
        while canary.counted("ended") == 0:
            await canary.ask()
            await asyncio.sleep(CANARY_TIMEOUT_S)
        assert await canary.ask() == "live"
        await canary.candidates.stop()
        assert canary.servers.busy == 0

    run(test)


def test_a_shadow_whose_triton_ended_gets_nothing_more(script: Callable[..., list[str]]) -> None:
    async def test() -> None:
        canary = Canary(CandidateMetrics(), mirrored=True)
        asked = script(t1=[OK] * 9, t2=["ends"] * 9)
        canary.servers._pools[1].is_away()
        assert await canary.ask() == "shadow"
        await asyncio.sleep(CANARY_TIMEOUT_S)
        assert asked == ["1", "2"]
        assert canary.counted("ended") == 1
        assert await canary.ask() == "live"

    run(test)


def test_requests_that_wait_while_the_triton_ends_do_not_meet_it_again(
    script: Callable[..., list[str]], canary: Canary
) -> None:
    async def test() -> None:
        asked = script(t1=[], t2=["ends"] * 9)
        exchange: Any = SimpleNamespace(scope={"headers": []})
        candidate, _ = canary.candidates.of("m", exchange)
        assert candidate is not None
        for _ in range(2):
            (await canary.candidates.ask("m", candidate, b"", b"{}")).close()
        assert asked.count("2") == 1
        assert canary.counted("ended") == 1

    run(test)


def test_a_candidate_that_can_not_be_placed_is_counted_and_gets_nothing(
    script: Callable[..., list[str]], canary: Canary, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        script(t1=[], t2=[])
        assert canary.exposed is not None
        canary.exposed = replace(canary.exposed, deploy_id="d3", triton="192.0.2.1:8001")
        assert await canary.ask() == "live", "it was not looked for yet"
        assert canary.counted("unplaced") == 0
        for _ in range(3):
            canary.candidates.look("m")
            assert await canary.ask() == "live"
        assert canary.counted("unplaced") == 3

    with caplog.at_level(logging.ERROR, "gateway"):
        run(test)
    assert caplog.text.count("Set GATEWAY_TRITON_GRPC_URLS") == 1


def test_a_candidate_is_not_asked_on_a_connection_that_was_idle_for_long(
    script: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall between that has forgotten it resets it: that must not look like a Triton that ended."""

    async def test() -> None:
        old, wire = connected()
        pool = Pool("127.0.0.1:1", 1.0)
        pool._idle.append(old)
        made: list[int] = []

        async def create(*_: object) -> tuple[None, Connection]:
            made.append(1)
            return None, connected()[0]

        loop = SimpleNamespace(create_connection=create)
        monkeypatch.setattr("ml_code.gateway.triton.pool.asyncio.get_running_loop", lambda: loop)
        old.idle_since = -FRESH_S
        assert await REAL_CONNECTION(pool, FRESH_S) is not old
        assert await REAL_CONNECTION(pool, float("inf")) is old
        assert (made, wire.aborted) == ([1], False)

    run(test)
