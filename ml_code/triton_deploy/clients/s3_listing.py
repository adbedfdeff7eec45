"""A page of S3's listing (ListObjectsV2), read from its XML with care. Pure rules: no I/O.

Source: Amazon S3's API reference, and the answers of rclone and Ceph in tests/integration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from ..errors import Misconfigured
from .http.answers import beginning, strange
from .listing import Listing

if TYPE_CHECKING:
    import requests

MOST_TAGS = 200_000
"""Most tags in one answer: a page has a thousand objects, and an element takes a hundred times the memory
of its shortest text."""


@dataclass(frozen=True)
class Page:
    """One answer of a listing.

    Attributes:
        objects: key and size in bytes of each.
        next_token: token of the next page; empty on the last page.
    """

    objects: list[tuple[str, int]]
    next_token: str


def page_of(response: requests.Response, server: str, asked: str) -> Page:
    """Parse a page of a listing.

    Args:
        response: the answer.
        server: name of the server in messages.
        asked: the request, for messages.

    Raises:
        Misconfigured: the answer is no listing of S3.
    """
    root = _parsed(response.content)
    if root is None or _name(root) != "ListBucketResult":
        raise _strange(response, server, asked, "it is no listing of S3")
    fields = _fields(root)
    encoded = fields.get("EncodingType") == "url"
    objects: list[tuple[str, int]] = []
    for element in root:
        if _name(element) != "Contents":
            continue
        entry = _fields(element)
        key, size = entry.get("Key", ""), entry.get("Size", "")
        if not key or not (size.isascii() and size.isdigit() and len(size) < 19):
            raise _strange(response, server, asked, "an object in it has no key, or no size in bytes")
        objects.append((unquote_plus(key) if encoded else key, int(size)))
    more = fields.get("IsTruncated", "false").lower() == "true"
    if more and not fields.get("NextContinuationToken"):
        raise _strange(response, server, asked, "it goes on, and does not say where")
    return Page(objects, fields["NextContinuationToken"] if more else "")


def below(prefix: str, key: str, listing: Listing) -> str:
    """Return an object's path below the listed prefix; raises Misconfigured for an object elsewhere."""
    if not key.startswith(prefix):
        raise listing.wrong(f"the object {key[:100]!r}, which is not below {prefix!r}")
    return key.removeprefix(prefix)


def error_of(content: bytes) -> Mapping[str, str]:
    """Return the fields of S3's error; empty for any other answer."""
    root = _parsed(content[: 1 << 16])
    return _fields(root) if root is not None and _name(root) == "Error" else {}


def _parsed(content: bytes) -> ElementTree.Element | None:
    # Entities defined in the document may expand without limit; S3 defines none.
    if content.count(b"<") > MOST_TAGS or b"<!" in content[:4096] or b"<!ENTITY" in content:
        return None
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None


def _fields(element: ElementTree.Element) -> dict[str, str]:
    return {_name(child): child.text or "" for child in element}


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _strange(response: requests.Response, server: str, asked: str, why: str) -> Misconfigured:
    return strange(server, asked, beginning(response), why, "MLFLOW_S3_ENDPOINT_URL")
