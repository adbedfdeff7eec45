"""What a deploy asks of the place where artifacts are: names and sizes of files, and how to read each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import ArtifactRejected, InvalidInput
from ..rules.locations import Place, parse_place
from ..rules.version_files import RemoteFile
from .http.tls import Trust


@dataclass(frozen=True)
class Source:
    """How to read one file.

    Attributes:
        url: address of a GET; a presigned one is as good as a key, so no message has it.
        server: what to call the server in a message.
        ranged: whether it answers ranges.
        headers: request headers, credentials among them.
        auth: user and password.
        trust: whose certificates hold, for ``http.new_session``.
        renew: asks for a new address of the same file when this one has expired; None for an address that does not expire. Raises what
            ``ArtifactStore.source`` does.
    """

    url: str = field(repr=False)
    server: str
    ranged: bool
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)
    trust: Trust = field(default_factory=Trust)
    renew: Callable[[], Source] | None = field(default=None, repr=False, compare=False)


class ArtifactStore(Protocol):
    """What a deploy asks of the place where artifacts are."""

    def list_files(self, uri: str) -> list[RemoteFile]:
        """Return every file below ``uri``, sorted by path; empty when there is nothing.

        Raises:
            AccessDenied, Misconfigured, NotFound, Unavailable: the store refuses, is not one, or does not answer.
        """

    def source(self, uri: str, path: str) -> Source:
        """Return how to read the file ``path`` below ``uri``; same errors."""


def place_of(uri: str) -> Place:
    """Return an artifact location taken apart; raises ArtifactRejected when it is none, or points outside its store."""
    try:
        return parse_place(uri)
    except InvalidInput as error:
        raise ArtifactRejected(
            f"The artifact location {uri} points outside its store, or is none. {error.message}",
            hint="Register the model version again.",
        ) from error
