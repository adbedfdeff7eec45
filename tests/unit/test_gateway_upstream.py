"""A connection to a Triton carries one client's answer at a time, and a request that ends a Triton does not end all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_code.gateway.connection import Broken, Connection, Side
from ml_code.gateway.errors import BackendFailed, Interrupted, Unavailable
from ml_code.gateway.pool import Pool, Reply
from ml_code.gateway.repeats import STOP_S, WITHIN_S, Repeats
from ml_code.gateway.upstream import Tritons

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

    async def connect(pool: Pool) -> Connection:
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
