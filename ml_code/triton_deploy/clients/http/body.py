"""The body of an answer, decompressed and limited in size: a small compressed body can hold a huge one.

This module decompresses by itself because not every version of urllib3 stops at a limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from ...errors import Misconfigured

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 1 << 16
_GZIP = zlib.MAX_WBITS | 16

Decode: TypeAlias = Callable[[bytes], tuple[bytes, bytes]]
"""Decodes bytes into at most one block of content; returns the block and the bytes that are left."""


def pieces(response: requests.Response, max_bytes: int, server: str) -> Iterator[bytes]:
    """Yield the content of an answer.

    Args:
        response: its head was read; the request accepted identity and gzip.
        max_bytes: largest content, bytes.
        server: name of the server in messages.

    Raises:
        Misconfigured: the content is larger, or compressed in another way.
        Exception: one of ``http.broken_reads``.
    """
    decode = _decoder(response.headers.get("Content-Encoding", ""), server)
    left = max_bytes
    while block := response.raw.read(BLOCK_BYTES, decode_content=False):
        while block:
            piece, block = decode(block)
            left -= len(piece)
            if left < 0:
                raise Misconfigured(
                    f"{server} answers with more than {max_bytes >> 20} MiB where a short answer was asked for.",
                    hint="Check its address: what answers there is not that server, or is broken.",
                )
            yield piece


def _decoder(encoding: str, server: str) -> Decode:
    named = encoding.strip().lower()
    if named in ("", "identity"):
        return lambda block: (block, b"")
    if named not in ("gzip", "x-gzip"):
        raise Misconfigured(
            f"{server} answers in the encoding {named[:40]!r}, which was not asked for.",
            hint="Check what stands before the server: it has to keep to Accept-Encoding.",
        )
    return _gunzip(server)


def _gunzip(server: str) -> Decode:
    """Return the decoder of a gzip stream, which may consist of several members."""
    member = zlib.decompressobj(_GZIP)

    def decode(block: bytes) -> tuple[bytes, bytes]:
        nonlocal member
        if member.eof:
            member = zlib.decompressobj(_GZIP)
        try:
            piece = member.decompress(block, BLOCK_BYTES)
        except zlib.error as error:
            raise Misconfigured(
                f"{server} answers with something that is not gzip, as it says: {error}.",
                hint="Check what stands before the server.",
            ) from error
        return piece, member.unused_data if member.eof else member.unconsumed_tail

    return decode
