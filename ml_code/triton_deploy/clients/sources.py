"""The port to artifact stores: a store lists files with their sizes, and says how to read each."""

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
        url: address of a GET; a presigned address is as good as a key, so no message shows it.
        server: name of the server in messages.
        ranged: whether the server answers ranged reads.
        headers: request headers, credentials among them.
        auth: user and password.
        trust: which certificates the connection trusts, for ``http.new_session``.
        renew: asks for a new address of the same file once this address has expired; None for an address
            that does not expire. Raises as ``ArtifactStore.source`` does.
    """

    url: str = field(repr=False)
    server: str
    ranged: bool
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: tuple[str, str] | None = field(default=None, repr=False)
    trust: Trust = field(default_factory=Trust)
    renew: Callable[[], Source] | None = field(default=None, repr=False, compare=False)


class ArtifactStore(Protocol):
    """A store of artifacts."""

    def list_files(self, uri: str) -> list[RemoteFile]:
        """Return every file below ``uri``, sorted by path; empty for a place without files.

        Raises:
            AccessDenied, Misconfigured, NotFound, Unavailable: the store refuses, is another program, or
                does not answer.
        """

    def source(self, uri: str, path: str) -> Source:
        """Return how to read the file ``path`` below ``uri``; raises as ``list_files`` does."""


def place_of(uri: str) -> Place:
    """Parse an artifact location; raises ArtifactRejected for other text, or a place outside its store."""
    try:
        return parse_place(uri)
    except InvalidInput as error:
        raise ArtifactRejected(
            f"The artifact location {uri} points outside its store, or is none. {error.message}",
            hint="Register the model version again.",
        ) from error
