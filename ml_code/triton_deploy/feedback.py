"""What MLflow is told of a model's versions, so that its pages say what serves; and whether the alias still means that.

Best effort, always: the repository decides what is live, MLflow only shows it. What could not be told is told by the next reconcile,
which compares and writes only what differs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from .deadline import within
from .errors import DeployError, Misconfigured
from .mlflow_api import MlflowApi
from .records import BAKED_BADLY, Deployment, Release, State
from .repository import ModelFolder
from .settings import Settings

LIVE, WARM, RETIRED, FAILED = "live", "warm", "retired", "failed"
KEYS = ("status", "generation", "time_utc", "reason")
"""The tags of a version, below the prefix."""

ALIAS_DRIFT, NOT_TOLD = "alias_drift", "mlflow_not_told"
"""Kinds of notices."""

HISTORY = 50
"""How many releases are looked back at, so that the cost does not grow with the age of a repository."""
LONGEST_REASON = 500

log = logging.getLogger(__name__)

T = TypeVar("T")


class Board(Protocol):
    """What a model registry shows of a model's versions.

    Every call raises AccessDenied, Misconfigured, NotFound or Unavailable when the registry refuses or does not answer.
    """

    def tags(self, model: str) -> Mapping[int, Mapping[str, str]]:
        """Return the tags of every version; empty for a model that is not known."""

    def aliases(self, model: str) -> Mapping[str, int]:
        """Return the version that each alias names."""

    def set_tag(self, model: str, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""

    def delete_tag(self, model: str, version: int, key: str) -> None:
        """Delete a tag of a version; one that is not there is fine."""


class MlflowBoard:
    """MLflow's pages of registered models.

    Args:
        settings: address, credentials and the longest wait for an answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._api = MlflowApi(settings)

    def tags(self, model: str) -> Mapping[int, Mapping[str, str]]:
        """See Board.tags."""
        found = self._api.every(
            "mlflow/model-versions/search", "model_versions", filter=f"name='{model}'", max_results="1000"
        )
        return {
            int(entry["version"]): {tag["key"]: tag.get("value", "") for tag in entry.get("tags", [])}
            for entry in found
        }

    def aliases(self, model: str) -> Mapping[str, int]:
        """See Board.aliases."""
        found = self._api.get("mlflow/registered-models/get", "registered_model", name=model)
        return {entry["alias"]: int(entry["version"]) for entry in found.get("aliases", [])}

    def set_tag(self, model: str, version: int, key: str, value: str) -> None:
        """See Board.set_tag."""
        self._api.send(
            "POST",
            "mlflow/model-versions/set-tag",
            name=model,
            version=str(version),
            key=key,
            value=value,
        )

    def delete_tag(self, model: str, version: int, key: str) -> None:
        """See Board.delete_tag."""
        self._api.send(
            "DELETE", "mlflow/model-versions/delete-tag", name=model, version=str(version), key=key
        )


@dataclass(frozen=True)
class Notice:
    """Something worth knowing that harms nothing that serves: its kind for machines, and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a version stands.

    Attributes:
        status: ``live``, ``warm`` (loaded beside it), ``retired`` or ``failed``.
        time_utc: since when.
        generation: the release that made it live last, or None.
        reason: why it failed, its bake included, or empty.
    """

    status: str
    time_utc: str
    generation: int | None = None
    reason: str = ""

    def tags(self) -> dict[str, str]:
        """Return it as tags, without the prefix."""
        generation = "" if self.generation is None else str(self.generation)
        values = (self.status, generation, self.time_utc, self.reason[:LONGEST_REASON])
        return {key: value for key, value in zip(KEYS, values, strict=True) if value}


@dataclass(frozen=True)
class FailedVersion:
    """A version whose deployment was rolled back, why, and when."""

    version: int
    reason: str
    at_utc: str


@dataclass(frozen=True)
class Change:
    """A tag that is to be set, or deleted when ``value`` is None."""

    version: int
    key: str
    value: str | None


def standings(releases: Sequence[Release], failed: Iterable[FailedVersion]) -> dict[int, Standing]:
    """Return how versions stand, as the repository has it.

    Args:
        releases: newest first.
        failed: versions that were rolled back, in any order.
    """
    found: dict[int, Standing] = {}
    loaded = releases[0].loaded_versions if releases else ()
    for after, release in zip([None, *releases], releases, strict=False):
        version = release.active_version
        if version not in found:
            since = after or release
            status = LIVE if after is None else WARM if version in loaded else RETIRED
            baked_badly = after is not None and after.reason.startswith(BAKED_BADLY)
            found[version] = Standing(
                status=status,
                time_utc=since.updated_at_utc,
                generation=release.generation,
                reason=since.reason if baked_badly else "",
            )
    for failure in sorted(failed, key=lambda failure: failure.at_utc):
        known = found.get(failure.version)
        if failure.version not in loaded and (known is None or known.time_utc <= failure.at_utc):
            found[failure.version] = Standing(
                status=FAILED,
                time_utc=failure.at_utc,
                generation=known.generation if known else None,
                reason=failure.reason,
            )
    return found


def changes(
    standing: Mapping[int, Standing], shown: Mapping[int, Mapping[str, str]], prefix: str
) -> list[Change]:
    """Return what has to be changed for the registry to show how versions stand.

    Args:
        standing: as the repository has it. A version of which it knows nothing keeps its tags, unless they claim that it is loaded.
        shown: the tags of each version that the registry has.
        prefix: what the tags begin with.
    """
    found = []
    for version, tags in shown.items():
        wanted = standing[version].tags() if version in standing else None
        if wanted is None:
            if tags.get(f"{prefix}.status") in (LIVE, WARM):
                found.append(Change(version, f"{prefix}.status", RETIRED))
            continue
        for key in KEYS:
            if wanted.get(key) != tags.get(f"{prefix}.{key}"):
                found.append(Change(version, f"{prefix}.{key}", wanted.get(key)))
    return found


def drift(live: Release | None, aliases: Mapping[str, int], refused: Mapping[int, str]) -> str:
    """Return what to know and do when the alias that was deployed means something else now, or nothing.

    Args:
        live: what serves.
        aliases: the version of each alias, as the registry has them.
        refused: why a version is not deployed again, of those in quarantine by their own fault.
    """
    if live is None or not live.alias or aliases.get(live.alias) == live.active_version:
        return ""
    named = aliases.get(live.alias)
    now = f"names version {named} in MLflow" if named is not None else "is not set in MLflow any more"
    what = f"Alias {live.alias} of {live.model} {now}, and version {live.active_version} serves."
    if named is not None and named in refused:
        return (
            f"{what} Version {named} failed ({refused[named].rstrip('.')}) and is in quarantine. Set the alias back to version "
            f"{live.active_version}, or register a repaired version and set it to that."
        )
    return (
        f"{what} Deploy it (triton-deploy deploy {live.model} --alias {live.alias}), or set the alias to version "
        f"{live.active_version}."
    )


class Feedback:
    """Keeps the registry's pages of versions true, as well as it can within its time limit.

    Args:
        settings: the prefix and the time limit. Without an MLflow, or with ``off``, nothing is told.
        board: makes the registry; MLflow by default. Called when something is to be told or asked, in another thread.
    """

    def __init__(self, settings: Settings, board: Callable[[], Board] | None = None) -> None:
        self._settings = settings
        quick = replace(
            settings, mlflow_timeout_s=min(settings.mlflow_timeout_s, settings.feedback_timeout_s)
        )
        self._board = board or (lambda: MlflowBoard(quick))
        self._asks = board is not None or bool(settings.mlflow_tracking_uri)
        self._away: DeployError | None = None

    @property
    def _tells(self) -> bool:
        return self._asks and self._settings.feedback_prefix != "off"

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
        aliases = self._within("asking MLflow for the alias", lambda: self._board().aliases(folder.model))
        text = drift(live, aliases, _refused(folder))
        return [Notice(ALIAS_DRIFT, text)] if text else []

    def _write(
        self, folder: ModelFolder, board: Board, failed: Sequence[FailedVersion], dry_run: bool = False
    ) -> list[str]:
        wanted = standings(list(islice(folder.releases.history(), HISTORY)), failed)

        def write() -> list[str]:
            found = changes(wanted, board.tags(folder.model), self._settings.feedback_prefix)
            for change in () if dry_run else found:
                if change.value is None:
                    board.delete_tag(folder.model, change.version, change.key)
                else:
                    board.set_tag(folder.model, change.version, change.key, change.value)
            return [
                f"tell MLflow that version {version} is {wanted[version].status if version in wanted else RETIRED}"
                for version in dict.fromkeys(change.version for change in found)
            ]

        return self._within("telling MLflow what serves", write)

    def _within(self, doing: str, action: Callable[[], T]) -> T:
        try:
            return within(self._settings.feedback_timeout_s, doing, action)
        except (LookupError, TypeError, ValueError) as error:
            raise Misconfigured(
                f"{doing[:1].upper()}{doing[1:]} failed on an answer that MLflow 3 does not give: {type(error).__name__}: {error}.",
                hint="Check that MLFLOW_TRACKING_URI is an MLflow 3 server.",
            ) from error

    def _failed(self, folder: ModelFolder, ended: Deployment | None = None) -> list[FailedVersion]:
        kept = [
            FailedVersion(version, _why(failure), str(failure["at_utc"]))
            for version, failure in _quarantined(folder)
            if failure.get("at_utc")
        ]
        if ended is not None and ended.state is State.ROLLED_BACK and ended.failure:
            # What left nothing in quarantine is told now or never.
            reason = f"{ended.failure.step}: {ended.failure.error}"
            kept.append(FailedVersion(ended.version, reason, ended.failure.at_utc))
        return kept


def _quarantined(folder: ModelFolder) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the versions in quarantine, and what is known of the failure of each."""
    for path, failure in folder.versions.quarantined():
        version = path.name.partition(".")[0]
        if version.isdigit():
            yield int(version), failure


def _refused(folder: ModelFolder) -> dict[int, str]:
    return {
        version: _why(failure) for version, failure in _quarantined(folder) if failure.get("blames_artifact")
    }


def _why(failure: Mapping[str, Any]) -> str:
    return f"{failure.get('step')}: {failure.get('error')}"
