"""What MLflow is told of a model's versions, so that its pages say what serves; and whether the alias still means that.

Best effort, always: the repository decides what is live, MLflow only shows it. What could not be told is told by the next reconcile,
which compares and writes only what differs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from ..clients.http.deadline import within
from ..clients.mlflow_board import Board, MlflowBoard
from ..errors import DeployError, Misconfigured
from ..repository import ModelFolder
from ..repository.verdicts import bad_versions, in_a_line
from ..rules.identity import Origin, origin_of
from ..rules.records import BAKED_BADLY, Deployment, Release, State
from ..rules.standing import (
    ALIAS_DRIFT,
    NOT_TOLD,
    RETIRED,
    FailedVersion,
    Notice,
    Registered,
    Standing,
    changes,
    drift,
    standings,
)
from ..settings import Settings

HISTORY = 50
"""How many releases are looked back at, so that the cost does not grow with the age of a repository."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class MlflowTags:
    """Keeps the registry's pages of versions true, as well as it can within its time limit.

    Args:
        settings: the prefix and the time limit. Without an MLflow, or with ``off``, nothing is told.
        board: makes the registry; MLflow by default. Called when something is to be told or asked, in another thread.
    """

    def __init__(self, settings: Settings, board: Callable[[], Board] | None = None) -> None:
        self._settings = settings
        quick = replace(
            settings,
            mlflow=replace(
                settings.mlflow, timeout_s=min(settings.mlflow.timeout_s, settings.mlflow.feedback_timeout_s)
            ),
        )
        self._board = board or (lambda: MlflowBoard(quick))
        self._asks = board is not None or bool(settings.mlflow.tracking_uri)
        self._away: DeployError | None = None

    @property
    def _tells(self) -> bool:
        return self._asks and self._settings.mlflow.feedback_prefix != "off"

    def tell(self, folder: ModelFolder, ended: Deployment) -> None:
        """Show how a deployment ended. Never raises, and takes no longer than the time limit.

        Args:
            folder: the model's place in the repository.
            ended: a deployment that was committed or rolled back.
        """
        if not self._tells:
            return
        try:
            self._write(folder, self._board(), self._failed(folder, ended))
        except DeployError as error:
            log.warning("MLflow does not show yet how deployment %s ended: %s", ended.deploy_id, error)
        except Exception:
            # A defect here is no reason to call a deploy failed that is committed.
            log.exception("MLflow does not show yet how deployment %s ended", ended.deploy_id)

    def settle(self, folder: ModelFolder, *, dry_run: bool) -> tuple[list[str], list[Notice]]:
        """Compare what the registry shows with the repository, and write what differs.

        Args:
            folder: the model's place in the repository.
            dry_run: write nothing.

        Returns:
            What was told, or is to be; and what is worth knowing: that the alias means another version, or that MLflow can't be
            asked. One that did not answer is not asked again for the next model.
        """
        if not self._asks:
            return [], []
        try:
            if self._away:
                raise self._away
            told = self._write(folder, self._board(), self._failed(folder), dry_run) if self._tells else []
            return told, list(self._drift(folder))
        except DeployError as error:
            self._away = error if error.retryable else None
            return [], [Notice(NOT_TOLD, f"MLflow was not asked or told what serves: {error}")]

    def drift(self, folder: ModelFolder) -> tuple[Notice, ...]:
        """Return whether the alias means another version than serves; nothing when the registry can't be asked quickly."""
        if not self._asks or self._away:
            return ()
        try:
            return tuple(self._drift(folder))
        except DeployError as error:
            self._away = error if error.retryable else None
            return ()

    def _drift(self, folder: ModelFolder) -> Iterable[Notice]:
        live = folder.releases.latest()
        if live is None:
            return []
        alias = live.alias
        named = (
            self._within("asking MLflow for the alias", lambda: self._board().named(folder.model, alias))
            if alias
            else None
        )
        here = _origin_here(folder, live, named.version) if named else None
        text = drift(live, named, _refused(folder), here)
        return [Notice(ALIAS_DRIFT, text)] if text else []

    def _write(
        self, folder: ModelFolder, board: Board, failed: Sequence[FailedVersion], dry_run: bool = False
    ) -> list[str]:
        releases = list(islice(folder.releases.history(), HISTORY))
        wanted = standings(releases, failed, _verdicts(folder, releases))
        for version in releases[0].loaded_versions if releases else ():
            if version in wanted:
                wanted[version] = _with_place(wanted[version], folder, version)

        def write() -> list[str]:
            shown = board.versions(folder.model)
            found = changes(wanted, shown, self._settings.mlflow.feedback_prefix)
            for change in () if dry_run else found:
                if change.value is None:
                    board.delete_tag(folder.model, change.version, change.key)
                else:
                    board.set_tag(folder.model, change.version, change.key, change.value)
            return [
                f"tell MLflow that {_what_is_told(shown[version], wanted.get(version))}"
                for version in dict.fromkeys(change.version for change in found)
            ]

        return self._within("telling MLflow what serves", write)

    def _within(self, doing: str, action: Callable[[], T]) -> T:
        try:
            return within(self._settings.mlflow.feedback_timeout_s, doing, action)
        except (LookupError, TypeError, ValueError) as error:
            raise Misconfigured(
                f"{doing[:1].upper()}{doing[1:]} failed on an answer that MLflow 3 does not give: {type(error).__name__}: {error}.",
                hint="Check that MLFLOW_TRACKING_URI is an MLflow 3 server.",
            ) from error

    def _failed(self, folder: ModelFolder, ended: Deployment | None = None) -> list[FailedVersion]:
        kept = [
            _failed_version(version, failure)
            for version, failure in _quarantined(folder)
            if failure.get("at_utc")
        ]
        if ended is not None and ended.state is State.ROLLED_BACK and ended.failure:
            # What left nothing in quarantine is told now or never.
            reason = f"{ended.failure.step}: {ended.failure.error}"
            kept.append(FailedVersion(ended.version, reason, ended.failure.at_utc, origin_of(ended.pinned)))
        return kept


def _quarantined(folder: ModelFolder) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the versions in quarantine, and what is known of the failure of each."""
    for path, failure in folder.versions.quarantined():
        version = path.name.partition(".")[0]
        if version.isdigit():
            yield int(version), failure


def _refused(folder: ModelFolder) -> list[FailedVersion]:
    """Return the versions that are not deployed again: those in quarantine by their own fault, newest first, and those that a bake found bad."""
    found = [
        _failed_version(version, failure)
        for version, failure in _quarantined(folder)
        if failure.get("blames_artifact")
    ]
    baked_badly = [
        FailedVersion(bad.version, BAKED_BADLY + bad.why, bad.at_utc, bad.origin, was_live=True)
        for bad in bad_versions(folder)
    ]
    return found[::-1] + baked_badly


def _verdicts(folder: ModelFolder, releases: Sequence[Release]) -> dict[int, str]:
    """Return how releases were judged, by their generation: those that have a bake, and of those that are loaded their canary too."""
    loaded = releases[0].loaded_versions if releases else ()
    baked = folder.bakes.generations()
    return {
        release.generation: in_a_line(folder, release)
        for release in releases
        if release.generation in baked or release.active_version in loaded
    }


def _failed_version(version: int, failure: Mapping[str, Any]) -> FailedVersion:
    run_id, place = failure.get("run_id"), failure.get("artifact_uri")
    # Earlier code did not write down the run.
    digest = str(failure.get("digest") or "")
    origin = Origin(run_id=run_id, place=str(place or ""), digest=digest) if isinstance(run_id, str) else None
    reason = f"{failure.get('step')}: {failure.get('error')}"
    return FailedVersion(version, reason, str(failure.get("at_utc", "")), origin)


def _with_place(standing: Standing, folder: ModelFolder, version: int) -> Standing:
    """Add the place to the origin of a version that is loaded, as its manifest has it; one that can't be read has none."""
    with contextlib.suppress(DeployError):
        manifest = folder.versions.manifest(version)
        if manifest and standing.origin and manifest.run_id == standing.origin.run_id:
            return replace(standing, origin=replace(standing.origin, place=manifest.artifact_uri))
    return standing


def _origin_here(folder: ModelFolder, live: Release, version: int) -> Origin | None:
    """Return where the repository's version of a number came from; None when there is none that was released."""
    manifest = None
    with contextlib.suppress(DeployError):
        manifest = folder.versions.manifest(version)
    if version == live.active_version:
        place = manifest.artifact_uri if manifest and manifest.run_id == live.run_id else ""
        return Origin(run_id=live.run_id, place=place, digest=live.digest)
    if manifest and folder.releases.releases_version(version):
        return origin_of(manifest)
    return None


def _what_is_told(shown: Registered, wanted: Standing | None) -> str:
    if wanted is not None and not wanted.is_of(shown):
        return f"version {shown.version} of {shown.origin.run} is another one than was deployed"
    return f"version {shown.version} is {wanted.status if wanted else RETIRED}"
