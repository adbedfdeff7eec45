"""API keys, kept as hashes, each for all models or for some.

Several keys are valid at once, so that clients can change over.

A key is a long random text, so a fast hash is enough: there are too many texts to try.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from ...triton_deploy.errors import Misconfigured
from ...triton_deploy.rules.names import check_model
from .errors import Forbidden, Unauthorized

_ENTRY = re.compile(r"sha256:([0-9a-f]{64})(?:@(.+))?")
_OF_ONE_MODEL = re.compile(r"/(?:predict|model-info|v2/models)/([^/]+)")
_OF_NO_MODEL = re.compile(r"/v2(?:/health/(?:live|ready))?/?")


@dataclass(frozen=True)
class Key:
    """A key by its hash.

    Attributes:
        digest: SHA-256 of the key.
        models: the models that the key opens; None for everything.
    """

    digest: bytes
    models: frozenset[str] | None = None

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Read ``sha256:<hex>`` or ``sha256:<hex>@model+model``.

        Raises:
            Misconfigured: the entry has another form. The message does not repeat it: it may be a key.
        """
        found = _ENTRY.fullmatch(entry.strip())
        if found is None:
            raise Misconfigured(
                "GATEWAY_API_KEYS has an entry that is not sha256:<64 hexadecimal digits>, with or without @model+model.",
                hint='Write the hash of each key: printf %s "$KEY" | sha256sum.',
            )
        models = frozenset(check_model(model) for model in found[2].split("+")) if found[2] else None
        return cls(bytes.fromhex(found[1]), models)


class Keys:
    """The keys of one gateway; without keys, every client may do everything.

    Args:
        plain: a key for everything; empty for none.
        entries: further keys, as ``Key.parse`` reads them.
        default_model: model of the paths that name no model.

    Raises:
        Misconfigured: an entry can't be read.
    """

    def __init__(self, plain: str, entries: Sequence[str], default_model: str) -> None:
        self._keys = [Key.parse(entry) for entry in entries]
        if plain:
            self._keys.append(Key(hashlib.sha256(plain.encode()).digest()))
        self._default_model = default_model

    def __bool__(self) -> bool:
        """Whether requests need a key."""
        return bool(self._keys)

    def check(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Check a request's key, ``X-Api-Key`` or a bearer token.

        Args:
            path: path of the request.
            headers: the request's, names in lower case.

        Raises:
            Unauthorized: the key is missing or unknown.
            Forbidden: the key does not cover this path.
        """
        given = b""
        for name, value in headers:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                given = given or value[7:]
        digest = hashlib.sha256(given).digest()
        # Every key is compared, so that the time tells nothing about the keys.
        fitting = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if not fitting:
            raise Unauthorized(
                "The API key is missing or wrong: send it as X-Api-Key.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not any(self._covers(key, path) for key in fitting):
            raise Forbidden("This API key is for other models, or for models only.")

    def _covers(self, key: Key, path: str) -> bool:
        if key.models is None or _OF_NO_MODEL.fullmatch(path):
            return True
        found = _OF_ONE_MODEL.match(path)
        if found:
            return found[1] in key.models
        return path in ("/predict", "/model-info") and self._default_model in key.models
