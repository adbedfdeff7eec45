"""Copies the files of a registered model version to this machine, for the local backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...triton_deploy.clients.fetch_version import (
    Artifact,
    Fetcher,
    consists_of,
    proven_digest,
    refuse_too_large,
)
from ...triton_deploy.clients.registry import RegisteredVersion
from ...triton_deploy.errors import ArtifactRejected
from ...triton_deploy.rules.version_files import MODEL_FILE, tree_digest
from ...triton_deploy.settings import Settings

MLMODEL = "MLmodel"


@dataclass(frozen=True)
class Fetched:
    """A version's files: their folder, their digest, and whether they are an ONNX model."""

    folder: Path
    digest: str
    is_onnx: bool


def fetch(registered: RegisteredVersion, folder: Path, settings: Settings) -> Fetched:
    """Copy a version's files into an empty folder.

    Args:
        registered: the version.
        folder: the empty folder; exists.
        settings: the deployer's, for MLflow, S3 and the limits.

    Raises:
        ArtifactRejected: the version holds no model, is too large or unsafe, or has another digest than
            training recorded.
        AccessDenied, Misconfigured, NotFound, Unavailable: a file can't be read.
        StorageFailed: a file can't be written.
    """
    artifact = _find(registered, settings)
    refuse_too_large(artifact.listed.values(), settings)
    fetch_one = Fetcher(artifact, folder, settings)
    entries = {path: fetch_one(path) for path in artifact.listed}
    if MODEL_FILE not in entries:
        return Fetched(folder, tree_digest(entries.values()), is_onnx=False)
    # The digest covers the files that a deploy to Triton would take, so that both digests are the same.
    taken = consists_of(entries, folder, entries.__getitem__)
    return Fetched(folder, proven_digest(taken, registered.expected_digest), is_onnx=True)


def _find(registered: RegisteredVersion, settings: Settings) -> Artifact:
    artifact = Artifact.find(registered.artifact_uris, (MODEL_FILE, MLMODEL), settings)
    if artifact is None:
        raise ArtifactRejected(
            f"Version {registered.version} has neither {MODEL_FILE} nor {MLMODEL} in {' or '.join(registered.artifact_uris)}.",
            hint="Log the model with one of MLflow's flavors.",
        )
    return artifact
