"""Brings the files of a registered model version to this machine, for the local backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..triton_deploy import onnx_model
from ..triton_deploy.artifacts import ArtifactStore, store_for
from ..triton_deploy.errors import ArtifactRejected
from ..triton_deploy.registry import RegisteredVersion
from ..triton_deploy.settings import Settings
from ..triton_deploy.transfer import Transfer
from ..triton_deploy.version_files import GOLDEN, MODEL_FILE, OPTIONS, FileEntry, RemoteFile, tree_digest

MLMODEL = "MLmodel"


@dataclass(frozen=True)
class Fetched:
    """A version's files: where, their digest, and whether they are an ONNX model."""

    folder: Path
    digest: str
    is_onnx: bool


def fetch(registered: RegisteredVersion, folder: Path, settings: Settings) -> Fetched:
    """Copy a version's files into an empty folder.

    Args:
        registered: what the alias names.
        folder: where to; exists.
        settings: the deployer's, for MLflow, S3 and the limits.

    Raises:
        ArtifactRejected: there is no model in it, it is too large or unsafe, or not what training recorded.
        AccessDenied, Misconfigured, NotFound, Unavailable: it can't be read.
        StorageFailed: it can't be written.
    """
    uri, store, listed = _find(registered, settings)
    _check(listed, settings)
    transfer = Transfer(settings)

    def fetch_one(file: RemoteFile) -> FileEntry:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256 = transfer.fetch(store.source(uri, file.path), target, file.size_bytes, lambda _: None)
        return FileEntry(path=file.path, size_bytes=file.size_bytes, sha256=sha256)

    entries = {file.path: fetch_one(file) for file in listed}
    is_onnx = MODEL_FILE in entries
    if is_onnx:
        # The digest is over what a deploy to Triton would take, so that it is the same there and here.
        wanted = {MODEL_FILE, *onnx_model.external_files(folder / MODEL_FILE), GOLDEN, OPTIONS}
        digest = tree_digest(entry for path, entry in entries.items() if path in wanted)
    else:
        digest = tree_digest(entries.values())
    if is_onnx and registered.expected_digest and digest != registered.expected_digest:
        raise ArtifactRejected(
            f"The artifact's digest is {digest}, training recorded {registered.expected_digest}.",
            hint="The stored files were changed or damaged after training; log the model again.",
        )
    return Fetched(folder, digest, is_onnx)


def _find(registered: RegisteredVersion, settings: Settings) -> tuple[str, ArtifactStore, list[RemoteFile]]:
    for uri in registered.artifact_uris:
        store = store_for(uri, settings)
        listed = store.list_files(uri)
        if {MODEL_FILE, MLMODEL} & {file.path for file in listed}:
            return uri, store, listed
    raise ArtifactRejected(
        f"Version {registered.version} has neither {MODEL_FILE} nor {MLMODEL} in {' or '.join(registered.artifact_uris)}.",
        hint="Log the model with one of MLflow's flavors.",
    )


def _check(listed: list[RemoteFile], settings: Settings) -> None:
    size = sum(file.size_bytes for file in listed)
    if size > settings.max_artifact_bytes:
        raise ArtifactRejected(
            f"The artifact has {size} bytes, more than the {settings.max_artifact_bytes} that are allowed.",
            hint="Make the model smaller, or raise TRITON_DEPLOY_MAX_ARTIFACT_BYTES.",
        )
    for file in listed:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise ArtifactRejected(
                f"The artifact has a file {file.path!r}, outside its own directory.",
                hint="Log the model again.",
            )
