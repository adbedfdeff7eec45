"""Finds the two models and the held-out rows: the champion in the model repository, the rest in MLflow.

The champion is the live version of the repository, with the same bytes that Triton has loaded. No alias
names it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ..training.heldout import ARTIFACT_PATH, DIGEST_TAG, HeldOut, HeldOutError
from ..triton_deploy.clients.artifacts import store_for
from ..triton_deploy.clients.fetch_version import (
    Artifact,
    Fetcher,
    consists_of,
    proven_digest,
    refuse_too_large,
)
from ..triton_deploy.clients.registry import MlflowRegistry, RegisteredVersion, no_onnx
from ..triton_deploy.errors import ArtifactRejected, DeployError, NotFound
from ..triton_deploy.repository import ModelFolder
from ..triton_deploy.rules.release import Release
from ..triton_deploy.rules.version_files import MODEL_FILE
from ..triton_deploy.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """The live version: its release, and its ``model.onnx`` in the model repository."""

    release: Release
    file: Path


def live_champion(settings: Settings, model: str) -> Champion | None:
    """Return the live version, or None before the first release.

    Args:
        settings: where the model repository is.
        model: model name.

    Raises:
        NotFound: the version's files are gone or damaged.
        StorageFailed: the files can't be read.
    """
    folder = ModelFolder.at(settings.repository_root, model)
    release = folder.releases.latest()
    if release is None:
        return None
    damage = next(folder.versions.damage(release.active_version, deep=True, release=release), None)
    if damage:
        raise NotFound(
            f"Version {release.active_version} of {model} serves, and can't be compared with: {damage}.",
            hint="See triton-deploy reconcile --deep, and restore the file.",
        )
    return Champion(release, folder.versions.path(release.active_version) / MODEL_FILE)


@dataclass(frozen=True)
class Rows:
    """The held-out rows of a run, and whether they have a digest that training recorded."""

    held_out: HeldOut
    pinned: bool


class Challengers:
    """New versions and the held-out rows of their runs, in MLflow.

    Args:
        settings: address, credentials and deadlines.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry = MlflowRegistry(settings)

    def find(self, model: str, version: int) -> RegisteredVersion:
        """Return a version; same errors as registry.Registry.resolve."""
        return self._registry.find(model, version)

    def fetch(self, model: str, found: RegisteredVersion, folder: Path) -> Path:
        """Download the files of a version into a folder.

        Args:
            model: model name.
            found: the version.
            folder: an empty folder.

        Returns:
            Its ``model.onnx``, external data beside it.

        Raises:
            ArtifactRejected: the version has no ``model.onnx``, is too large, or has another digest than
                training recorded.
            DeployError: the artifact store refuses or does not answer.
        """
        artifact = Artifact.find(found.artifact_uris, [MODEL_FILE], self._settings)
        if artifact is None:
            raise no_onnx(model, found.version, found.artifact_uris)
        refuse_too_large(artifact.listed.values(), self._settings)
        fetch = Fetcher(artifact, folder, self._settings)
        proven_digest(consists_of(artifact.listed, folder, fetch), found.expected_digest)
        return folder / MODEL_FILE

    def held_out(self, run_id: str, folder: Path) -> Rows:
        """Return the held-out rows that a run keeps.

        Args:
            run_id: the run.
            folder: a folder for the downloaded file.

        Raises:
            NotFound: the run keeps no held-out rows, or is gone.
            ArtifactRejected: the rows are damaged, or have another digest than training recorded.
            DeployError: MLflow or the artifact store refuse or do not answer.
        """
        path = Path(ARTIFACT_PATH)
        try:
            uri = self._registry.run_place(run_id, str(path.parent))
        except NotFound as error:
            raise NotFound(
                f"Run {run_id} is gone from MLflow, and with it the held-out rows to compare with ({error.message})",
                hint="Train again. The version itself can be deployed as long as its files are there: triton-deploy deploy.",
            ) from error
        artifact = Artifact.at(uri, store_for(uri, self._settings))
        if path.name not in artifact.listed:
            raise NotFound(
                f"Run {run_id} keeps no held-out rows ({ARTIFACT_PATH}).",
                hint="Train with ml_code.train_model, or log them as ml_code/training/heldout.py says.",
            )
        fetched = Fetcher(artifact, folder, self._settings)(path.name)
        recorded = self._registry.run_tags(run_id).get(DIGEST_TAG, "")
        if recorded and recorded != fetched.sha256:
            raise ArtifactRejected(
                f"The held-out rows of run {run_id} ({ARTIFACT_PATH}) are not those that training recorded.",
                hint="They were changed or damaged after training, so they decide nothing; train again.",
            )
        try:
            return Rows(HeldOut.from_bytes((folder / path.name).read_bytes()), pinned=bool(recorded))
        except HeldOutError as error:
            raise ArtifactRejected(
                f"{ARTIFACT_PATH} of run {run_id}: {error}", hint="Train again."
            ) from error

    def held_out_of(self, run_id: str, folder: Path) -> HeldOut | None:
        """Return the held-out rows of a run; None if there are none, or others than training recorded."""
        if not run_id:
            return None
        try:
            return self.held_out(run_id, folder).held_out
        except DeployError as error:
            if error.retryable:
                raise
            log.warning("the held-out rows of the live version can't be used: %s", error)
            return None
