"""Twists of any answer: too much of it, too little, or too late."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace

from tests.support.servers.twists import MIB, Play, Scene, sent, twist
from tests.support.servers.wire import head_of

ENDLESS: dict[str, Play] = {}
BOMB_BYTES = 1536 * MIB
"""The unpacked size of a bomb."""

# Size


@twist("endless body", ENDLESS)
def _endless(scene: Scene) -> None:
    chunked = scene.random.random() < 0.5
    start = scene.answer.body[: len(scene.answer.body) // 2]
    headers = {
        **scene.answer.headers,
        **({"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}),
    }
    scene.wire.over = True
    scene.wire.head(200, headers)
    block = scene.random.choice((b" ", b"\0", b"[")) * 65_536
    data = b"%x\r\n%s\r\n" % (len(block), block) if chunked else block
    scene.wire.send(b"%x\r\n%s\r\n" % (len(start), start) if chunked and start else b"" if chunked else start)
    while True:
        scene.wire.send(data)
        # Enough for gigabytes, and something is left of the processor for the others.
        scene.wire.wait(0.001)


@twist("longer than it says", ENDLESS)
def _longer(scene: Scene) -> None:
    body = scene.answer.body
    scene.wire.answer(
        scene.answer.status, {**scene.answer.headers, "Content-Length": str(len(body))}, body + b"x" * 1000
    )
    scene.wire.close()


@twist("shorter than it says", ENDLESS)
def _shorter(scene: Scene) -> None:
    body = scene.answer.body
    said = str(len(body) + scene.random.choice((1, 1000, 1 << 40)))
    scene.wire.answer(scene.answer.status, {**scene.answer.headers, "Content-Length": said}, body)
    scene.wire.close()


@functools.cache
def _spaces() -> bytes:
    """Return very many spaces as one stream of deflate; a block that was flushed can be repeated."""
    packer, count = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), 16 * MIB
    return (packer.compress(b" " * count) + packer.flush(zlib.Z_FULL_FLUSH)) * (BOMB_BYTES // count)


def _gzipped() -> bytes:
    # The sum at its end is wrong: who gets there has unpacked all of it.
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + _spaces() + b"\x03\x00" + b"\x00" * 8


@functools.cache
def _of_many_members() -> bytes:
    return gzip.compress(b" " * (16 * MIB), 9) * (BOMB_BYTES // (16 * MIB))


BOMBS: tuple[tuple[str, Callable[[], bytes]], ...] = (
    ("gzip", _gzipped),
    ("x-gzip", _gzipped),
    ("gzip", _of_many_members),
    ("deflate", lambda: b"\x78\xda" + _spaces()),
    ("deflate", _spaces),
    ("gzip, gzip", lambda: gzip.compress(_gzipped())),
    (
        ", ".join(["gzip"] * 40),
        lambda: functools.reduce(lambda data, _: gzip.compress(data), range(40), b" " * MIB),
    ),
)


@twist("bomb", ENDLESS)
def _bomb(scene: Scene) -> None:
    encoding, data = scene.random.choice(BOMBS)
    sent(scene, replace(scene.answer, status=200, body=data()).changed(Content_Encoding=encoding))


@twist("odd encoding", ENDLESS)
def _odd_encoding(scene: Scene) -> None:
    encoding = scene.random.choice(
        ("gzip", "deflate", "br", "zstd", "compress", "nonsense", "gzip, gzip", "")
    )
    sent(scene, scene.answer.changed(Content_Encoding=encoding))


# Time


@twist("silence", ENDLESS)
def _silence(scene: Scene) -> None:
    scene.wire.over = True
    scene.wire.wait(3600)


@twist("late", ENDLESS)
def _late(scene: Scene) -> None:
    scene.wire.wait(scene.random.choice((0.7, 1.5, 3.0)))
    sent(scene, scene.answer)


@twist("dripping head", ENDLESS)
def _dripping_head(scene: Scene) -> None:
    scene.wire.over = True
    head = head_of(
        200, {"X-Much": "y" * 2000, **scene.answer.headers, "Content-Length": str(len(scene.answer.body))}
    )
    scene.wire.drip(head + scene.answer.body, scene.random.choice((0.1, 0.9)))


@twist("dripping body", ENDLESS)
def _dripping_body(scene: Scene) -> None:
    scene.wire.over = True
    body = scene.answer.body + b" " * 5000
    scene.wire.head(scene.answer.status, {**scene.answer.headers, "Content-Length": str(len(body))})
    scene.wire.drip(body, scene.random.choice((0.1, 0.9)), scene.random.choice((1, 7)))


@twist("dripping chunks", ENDLESS)
def _dripping_chunks(scene: Scene) -> None:
    scene.wire.over = True
    scene.wire.head(scene.answer.status, {**scene.answer.headers, "Transfer-Encoding": "chunked"})
    extension = b";x=" + b"y" * 1000
    scene.wire.drip(b"1" + extension + b"\r\n \r\n" + b"1\r\n \r\n" * 10_000, 0.1)


@twist("go on, go on", ENDLESS)
def _continues(scene: Scene) -> None:
    """Says for ever that there is more to come."""
    scene.wire.over = True
    while True:
        scene.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n" * scene.random.choice((1, 1000)))
        scene.wire.wait(0.05)


@twist("stall", ENDLESS)
def _stall(scene: Scene) -> None:
    """Sends the half, then nothing more."""
    scene.wire.over = True
    body = scene.answer.body
    scene.wire.head(scene.answer.status, {**scene.answer.headers, "Content-Length": str(len(body))})
    scene.wire.send(body[: len(body) // 2])
    scene.wire.wait(3600)
