"""Fetches a version's files from the artifact store, and checks them against training's digest.

The deployer, the gate and the gateway use it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from ..errors import ArtifactRejected
from ..model import onnx_model
from ..rules.version_files import GOLDEN, MODEL_FILE, OPTIONS, FileEntry, RemoteFile, tree_digest
from ..settings import Settings
from ..storage import storage_errors
from .artifacts import ArtifactStore, store_for
from .transfer import Transfer


class OtherFiles(ArtifactRejected):
    """The files differ from those that training recorded.

    The store or the transfer may have damaged them, so the error says nothing against the model.
    """

    kind, blames_artifact = "other_files", False


@dataclass(frozen=True)
class Artifact:
    """A place in an artifact store, and its files.

    Attributes:
        uri: the place.
        store: the store that it is in.
        listed: the files below it, by their path.
    """

    uri: str
    store: ArtifactStore
    listed: Mapping[str, RemoteFile]

    @classmethod
    def at(cls, uri: str, store: ArtifactStore) -> Self:
        """List the files of a place; raises as ``ArtifactStore.list_files`` does."""
        return cls(uri, store, {file.path: file for file in store.list_files(uri)})

    @classmethod
    def find(cls, uris: Iterable[str], wanted: Collection[str], settings: Settings) -> Self | None:
        """Return the first of several places with one of the wanted files, or None.

        Args:
            uris: the places, most likely first.
            wanted: paths of files.
            settings: addresses, credentials and deadlines.

        Raises:
            ArtifactRejected, Misconfigured: as ``store_for``.
            AccessDenied, NotFound, Unavailable: as ``ArtifactStore.list_files``.
        """
        for uri in uris:
            artifact = cls.at(uri, store_for(uri, settings))
            if any(path in artifact.listed for path in wanted):
                return artifact
        return None


class Fetcher:
    """Fetches single files of an artifact into a folder.

    Args:
        artifact: the artifact, with its list of files.
        folder: the target folder; exists.
        settings: limits of the transfer.
        progress: called with the number of bytes of every block that arrived.
    """

    def __init__(
        self,
        artifact: Artifact,
        folder: Path,
        settings: Settings,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._artifact, self._folder, self._progress = artifact, folder, progress
        self._transfer = Transfer(settings)

    def __call__(self, path: str) -> FileEntry:
        """Fetch one of the listed files.

        Raises:
            ArtifactRejected: its path leads out of the folder.
            AccessDenied, Misconfigured, NotFound, Unavailable: the store can't be read.
            StorageFailed: the file can't be written.
        """
        target, file = self.target(path), self._artifact.listed[path]
        source = self._artifact.store.source(self._artifact.uri, path)
        sha256 = self._transfer.fetch(source, target, file.size_bytes, self._progress)
        return FileEntry(path=path, size_bytes=file.size_bytes, sha256=sha256)

    def target(self, path: str) -> Path:
        """Return the target of a file, and make its folder; raises ArtifactRejected and StorageFailed."""
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            raise ArtifactRejected(
                f"The artifact has a file {path!r}, outside its own directory.",
                hint="Log the model again.",
            )
        target = self._folder / path
        with storage_errors(f"writing {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target


def consists_of(
    listed: Collection[str], folder: Path, fetch: Callable[[str], FileEntry]
) -> Iterator[FileEntry]:
    """Fetch and yield the files of an ONNX version: the model, its external data, and the ``triton`` folder.

    Args:
        listed: paths of the logged files.
        folder: target folder of ``fetch``.
        fetch: fetches one of the files.

    Raises:
        ArtifactRejected: the model is not ONNX, or names external data that was not logged.
        DeployError: any error of ``fetch``.
    """
    yield fetch(MODEL_FILE)
    for path in onnx_model.external_files(folder / MODEL_FILE):
        if path not in listed:
            raise ArtifactRejected(
                f"model.onnx keeps weights in {path}, which is not among the logged files.",
                hint="Log the external data files beside model.onnx.",
            )
        yield fetch(path)
    yield from (fetch(path) for path in (GOLDEN, OPTIONS) if path in listed)


def proven_digest(entries: Iterable[FileEntry], recorded: str) -> str:
    """Return the digest of a version's files; raises OtherFiles when training recorded another digest.

    Args:
        entries: all files of the version.
        recorded: the digest that training recorded, or empty.
    """
    digest = tree_digest(entries)
    if recorded and digest != recorded:
        raise OtherFiles(
            f"The artifact's digest is {digest}, training recorded {recorded}.",
            hint="The stored files were changed or damaged after training, or on the way. Deploy again; if that ends so too, log the model again.",
        )
    return digest


def refuse_too_large(files: Iterable[RemoteFile], settings: Settings) -> int:
    """Return the size of an artifact's files, bytes; raises ArtifactRejected beyond the allowed size."""
    size = sum(file.size_bytes for file in files)
    if size > settings.transfer.max_artifact_bytes:
        raise ArtifactRejected(
            f"The artifact has {size} bytes, more than the {settings.transfer.max_artifact_bytes} that are allowed.",
            hint="Make the model smaller, or raise TRITON_DEPLOY_MAX_ARTIFACT_BYTES.",
        )
    return size
