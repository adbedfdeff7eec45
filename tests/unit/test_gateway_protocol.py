"""What a client may do before its key is looked at: how large a head, how long, how many connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from ml_code.service.http_protocol import LimitedProtocol, Limits

SMALL = Limits(head_bytes=1000, url_bytes=200, head_timeout_s=0.05, connections=3)


class Wire(asyncio.Transport):
    """A transport without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.aborted = False
        self.unread = 0

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Door:
    """A server's connections, and the requests that came through."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._state = ServerState()
        self._config = Config(
            self._application, interface="asgi3", lifespan="off", ws="none", log_config=None
        )
        self._config.load()

    def connect(self) -> tuple[LimitedProtocol, Wire]:
        protocol = LimitedProtocol(self._config, self._state, {})
        wire = Wire()
        protocol.connection_made(wire)
        return protocol, wire

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(LimitedProtocol, "limits", SMALL)
    yield
    LimitedProtocol._without_request.clear()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def settle(seconds: float = 0.01) -> None:
    await asyncio.sleep(seconds)


def status(wire: Wire) -> int:
    return int(wire.written[9:12] or 0)


GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def feed(protocol: LimitedProtocol, wire: Wire, data: bytes, piece: int) -> None:
    """Send bytes as the network may cut them; nothing after the end."""
    for at in range(0, len(data), piece):
        if not wire.aborted:
            protocol.data_received(data[at : at + piece])


@pytest.mark.parametrize("piece", [1, 7, 100, 100_000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(GET, 200, id="small"),
        pytest.param(
            b"GET /" + b"a" * 150 + b" HTTP/1.1\r\nA: " + b"b" * 500 + b"\r\n\r\n", 200, id="within"
        ),
        pytest.param(b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n\r\n", 414, id="long URL"),
        pytest.param(b"GET /" + b"a" * 300, 414, id="long URL without an end"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 400 + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"b" * 3000 + b"\r\n\r\n", 431, id="long header"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"b" * 3000, 431, id="long header without an end"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"b" * 3000, 431, id="long name without an end"),
        pytest.param(b"\r\n" * 2000, 431, id="empty lines"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + b"b" * 50_000, 200, id="large body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nb\r\n" * 3000 + b"0\r\n\r\n",
            200,
            id="small chunks",
        ),
        pytest.param(GET * 3, 200, id="several at once"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + b"b" * 50_000 + GET,
            200,
            id="a head after a body",
        ),
    ],
)
def test_what_is_no_body_has_a_limit(data: bytes, expected: int, piece: int) -> None:
    async def test() -> None:
        door = Door()
        protocol, wire = door.connect()
        feed(protocol, wire, data, piece)
        await settle()
        assert status(wire) == expected
        if expected != 200:
            assert door.asked == []
            assert json.loads(wire.written.partition(b"\r\n\r\n")[2])["error"]
        else:
            assert len(door.asked) == data.count(b" HTTP/1.1")

    run(test)


@pytest.mark.parametrize("piece", [5, 100_000])
@pytest.mark.parametrize(
    "trailer",
    [b"A: b\r\n" * 2000, b"A: " + b"b" * 20_000, b"1;" + b"e" * 20_000],
    ids=["trailers", "a trailer without an end", "an extension"],
)
def test_what_follows_a_chunked_body_has_the_same_limit(trailer: bytes, piece: int) -> None:
    async def test() -> None:
        protocol, wire = Door().connect()
        end = b"" if trailer.startswith(b"1;") else b"0\r\n"
        feed(protocol, wire, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + end + trailer, piece)
        await settle()
        assert protocol._refused
        assert wire.aborted, "its request was under way"

    run(test)


def test_a_head_has_to_be_complete_in_time() -> None:
    async def test() -> None:
        door = Door()
        protocol, wire = door.connect()
        for byte in GET[:-1]:
            protocol.data_received(bytes([byte]))
            await settle(0.004)
            if wire.written:
                break
        assert status(wire) == 408
        assert door.asked == []

    run(test)


def test_a_connection_that_says_nothing_is_ended_in_time() -> None:
    async def test() -> None:
        _, wire = Door().connect()
        await settle(0.1)
        assert status(wire) == 408

    run(test)


def test_a_request_in_time_may_take_longer_than_its_head_and_the_next_has_the_time_anew() -> None:
    async def test() -> None:
        door = Door()
        protocol, wire = door.connect()
        protocol.data_received(b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        await settle(0.1)
        protocol.data_received(b"b")
        await settle()
        assert door.asked == [("/a", b"b")]
        await settle(0.1)
        assert not wire.closed, "it is idle, which is no half head"
        protocol.data_received(b"GET ")
        await settle(0.1)
        assert wire.written.endswith(b"}")
        assert b" 408 " in wire.written

    run(test)


def test_the_connection_without_a_request_for_the_longest_makes_room() -> None:
    async def test() -> None:
        door = Door()
        at_work, work_wire = door.connect()
        at_work.data_received(b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        half = [door.connect() for _ in range(2)]
        late, late_wire = door.connect()
        assert [wire.aborted for _, wire in half] == [True, False]
        assert not work_wire.aborted
        late.data_received(GET)
        await settle()
        assert status(late_wire) == 200

    run(test)


def test_when_all_have_requests_the_new_connection_goes() -> None:
    async def test() -> None:
        door = Door()
        wires = []
        for _ in range(4):
            protocol, wire = door.connect()
            wires.append(wire)
            if not wire.aborted:
                protocol.data_received(b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        assert [wire.aborted for wire in wires] == [False, False, False, True]

    run(test)


def test_a_refused_client_may_read_why_and_is_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_code.service.http_protocol._LINGER_S", 0.03)

    async def test() -> None:
        protocol, wire = Door().connect()
        protocol.data_received(b"GET /" + b"a" * 300)
        await settle()
        protocol.data_received(b"a" * 10_000_000)
        assert not wire.closed
        assert status(wire) == 414
        await settle(0.05)
        assert wire.aborted

    run(test)


def test_what_a_client_does_not_read_is_dropped_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_code.service.http_protocol._UNREAD_S", 0.03)

    async def test() -> None:
        protocol, wire = Door().connect()
        wire.unread = 1
        protocol.transport.close()
        assert not wire.aborted
        await settle(0.05)
        assert wire.aborted

    run(test)
