"""Tags of a model's versions, by which MLflow's pages show the live version; and drift of an alias from it.

All of it is best effort: the repository decides which version is live, MLflow only shows it. The next
reconcile writes the tags that could not be written: it compares, and writes only the differences.
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
from ..rules.deployment import Deployment, State
from ..rules.identity import Origin, origin_of
from ..rules.release import BAKED_BADLY, Release
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
"""Number of recent releases that are compared with the tags, to bound the cost for old repositories."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class MlflowTags:
    """Keeps the tags of versions in the registry true, as far as the time limit allows.

    Args:
        settings: prefix of the tags, and time limit. Without an MLflow, or with ``off``, it writes no tag.
        board: makes the registry; MLflow by default. Called in another thread, for each reading and writing.
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
        self._has_registry = board is not None or bool(settings.mlflow.tracking_uri)
        self._unreachable: DeployError | None = None

    @property
    def _writes_tags(self) -> bool:
        return self._has_registry and self._settings.mlflow.feedback_prefix != "off"

    def tell(self, folder: ModelFolder, ended: Deployment) -> None:
        """Show the end of a deployment. Never raises, and takes no longer than the time limit.

        Args:
            folder: the model's place in the repository.
            ended: the deployment, committed or rolled back.
        """
        if not self._writes_tags:
            return
        try:
            self._write(folder, self._board(), self._failed(folder, ended))
        except DeployError as error:
            log.warning("MLflow does not show yet how deployment %s ended: %s", ended.deploy_id, error)
        except Exception:
            # A defect of the tags must not make a committed deploy fail.
            log.exception("MLflow does not show yet how deployment %s ended", ended.deploy_id)

    def settle(self, folder: ModelFolder, *, dry_run: bool) -> tuple[list[str], list[Notice]]:
        """Compare the tags of the registry with the repository, and write the differences.

        Args:
            folder: the model's place in the repository.
            dry_run: write nothing.

        Returns:
            The changes of tags, made or, in a dry run, due; and notices: that the alias names another
            version, or that MLflow can't be asked. After no answer, MLflow is not asked for the next model.
        """
        if not self._has_registry:
            return [], []
        try:
            if self._unreachable:
                raise self._unreachable
            told = (
                self._write(folder, self._board(), self._failed(folder), dry_run) if self._writes_tags else []
            )
            return told, list(self._drift(folder))
        except DeployError as error:
            self._unreachable = error if error.retryable else None
            return [], [Notice(NOT_TOLD, f"MLflow was not asked or told what serves: {error}")]

    def drift(self, folder: ModelFolder) -> tuple[Notice, ...]:
        """Return a notice if the alias does not name the live version; none if the registry is too slow."""
        if not self._has_registry or self._unreachable:
            return ()
        try:
            return tuple(self._drift(folder))
        except DeployError as error:
            self._unreachable = error if error.retryable else None
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
                f"tell MLflow that {_change_in_words(shown[version], wanted.get(version))}"
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
            # A failure without files in quarantine is known from this record alone.
            reason = f"{ended.failure.step}: {ended.failure.error}"
            kept.append(FailedVersion(ended.version, reason, ended.failure.at_utc, origin_of(ended.pinned)))
        return kept


def _quarantined(folder: ModelFolder) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the versions in quarantine, each with the facts of its failure."""
    for path, failure in folder.quarantine.failures():
        version = path.name.partition(".")[0]
        if version.isdigit():
            yield int(version), failure


def _refused(folder: ModelFolder) -> list[FailedVersion]:
    """Return the refused versions: in quarantine by their own fault, newest first, then failed by a bake."""
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
    """Return the verdicts of bake and canary, by generation, of each release that has baked or is loaded."""
    loaded = releases[0].loaded_versions if releases else ()
    baked = folder.bakes.generations()
    return {
        release.generation: in_a_line(folder, release)
        for release in releases
        if release.generation in baked or release.active_version in loaded
    }


def _failed_version(version: int, failure: Mapping[str, Any]) -> FailedVersion:
    run_id, place = failure.get("run_id"), failure.get("artifact_uri")
    # Earlier code did not record the run.
    digest = str(failure.get("digest") or "")
    origin = Origin(run_id=run_id, place=str(place or ""), digest=digest) if isinstance(run_id, str) else None
    reason = f"{failure.get('step')}: {failure.get('error')}"
    return FailedVersion(version, reason, str(failure.get("at_utc", "")), origin)


def _with_place(standing: Standing, folder: ModelFolder, version: int) -> Standing:
    """Return the standing with the place of origin, if the version's manifest can be read."""
    with contextlib.suppress(DeployError):
        manifest = folder.versions.manifest(version)
        if manifest and standing.origin and manifest.run_id == standing.origin.run_id:
            return replace(standing, origin=replace(standing.origin, place=manifest.artifact_uri))
    return standing


def _origin_here(folder: ModelFolder, live: Release, version: int) -> Origin | None:
    """Return the origin of the repository's version of this number, or None if it was never released."""
    manifest = None
    with contextlib.suppress(DeployError):
        manifest = folder.versions.manifest(version)
    if version == live.active_version:
        place = manifest.artifact_uri if manifest and manifest.run_id == live.run_id else ""
        return Origin(run_id=live.run_id, place=place, digest=live.digest)
    if manifest and folder.releases.releases_version(version):
        return origin_of(manifest)
    return None


def _change_in_words(shown: Registered, wanted: Standing | None) -> str:
    if wanted is not None and not wanted.is_of(shown):
        return f"version {shown.version} of {shown.origin.run} is another one than was deployed"
    return f"version {shown.version} is {wanted.status if wanted else RETIRED}"
