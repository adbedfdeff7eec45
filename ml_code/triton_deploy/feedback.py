"""What MLflow is told of a model's versions, so that its pages say what serves; and whether the alias still means that.

Best effort, always: the repository decides what is live, MLflow only shows it. What could not be told is told by the next reconcile,
which compares and writes only what differs.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from .deadline import within
from .errors import AliasNotFound, DeployError, Misconfigured
from .http_answers import Answer
from .identity import Origin, is_another, origin_of, same_files, way_forward
from .mlflow_api import MlflowApi
from .records import BAKED_BADLY, Deployment, Release, State
from .registry import tags_of
from .repository import ModelFolder
from .settings import Settings
from .verdicts import bad_versions, in_a_line
from .version_files import DIGEST_TAG

LIVE, WARM, RETIRED, FAILED = "live", "warm", "retired", "failed"
KEYS = ("status", "generation", "time_utc", "reason", "verdict")
"""The tags of a version, below the prefix."""

ALIAS_DRIFT, NOT_TOLD = "alias_drift", "mlflow_not_told"
"""Kinds of notices."""

HISTORY = 50
"""How many releases are looked back at, so that the cost does not grow with the age of a repository."""
LONGEST_REASON = 500

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version as the registry's pages have it.

    Attributes:
        version: its number.
        origin: its run, and what it was registered from.
        tags: its tags.
        description: its description, or empty.
    """

    version: int
    origin: Origin
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    @classmethod
    def of(cls, entry: Answer) -> Registered:
        """Take one from MLflow's JSON; a run that is gone keeps its name there."""
        tags = tags_of(entry)
        origin = Origin(
            run_id=entry.text("run_id", ""),
            place=entry.text("source", ""),
            digest=tags.get(DIGEST_TAG, ""),
        )
        return cls(
            version=entry.whole("version"),
            origin=origin,
            tags=tags,
            description=entry.text("description", ""),
        )


class Board(Protocol):
    """What a model registry shows of a model's versions.

    Every call raises AccessDenied, Misconfigured, NotFound or Unavailable when the registry refuses or does not answer.
    """

    def versions(self, model: str) -> Mapping[int, Registered]:
        """Return every version; none of a model that is not known."""

    def named(self, model: str, alias: str) -> Registered | None:
        """Return the version that an alias names, or None when it is not set."""

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

    def versions(self, model: str) -> Mapping[int, Registered]:
        """See Board.versions."""
        found = self._api.every(
            "mlflow/model-versions/search", "model_versions", filter=f"name='{model}'", max_results="1000"
        )
        return {version.version: version for version in map(Registered.of, found)}

    def named(self, model: str, alias: str) -> Registered | None:
        """See Board.named."""
        endpoint = "mlflow/registered-models/alias"
        try:
            return Registered.of(self._api.get(endpoint, "model_version", name=model, alias=alias))
        except AliasNotFound:
            return None

    def aliases(self, model: str) -> Mapping[str, int]:
        """See Board.aliases."""
        found = self._api.get("mlflow/registered-models/get", "registered_model", name=model)
        return {entry.text("alias"): entry.whole("version") for entry in found.items("aliases")}

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

    def register(self, model: str, like: Registered, tags: Mapping[str, str]) -> int:
        """See renumber.Registrar.register."""
        logged = re.fullmatch(r"models:/(m-[^/@]+)", like.origin.place)
        answer = self._api.send(
            "POST",
            "mlflow/model-versions/create",
            name=model,
            source=like.origin.place,
            description=like.description,
            tags=[{"key": key, "value": value} for key, value in tags.items()],
            **({"run_id": like.origin.run_id} if like.origin.run_id else {}),
            **({"model_id": logged[1]} if logged else {}),
        )
        return answer.part("model_version").whole("version")

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See renumber.Registrar.set_alias."""
        self._api.send(
            "POST", "mlflow/registered-models/alias", name=model, alias=alias, version=str(version)
        )

    def delete_version(self, model: str, version: int) -> None:
        """See renumber.Registrar.delete_version."""
        self._api.send("DELETE", "mlflow/model-versions/delete", name=model, version=str(version))


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
        reason: why it failed or was taken back, or empty.
        verdict: how its last release was judged, or empty.
        origin: where it came from, as far as the repository knows.
    """

    status: str
    time_utc: str
    generation: int | None = None
    reason: str = ""
    verdict: str = ""
    origin: Origin | None = None

    def is_of(self, shown: Registered) -> bool:
        """Whether it is of the version that the registry shows, not of a former one of the same number."""
        return self.origin is None or not is_another(self.origin, shown.origin)

    def tags(self) -> dict[str, str]:
        """Return it as tags, without the prefix."""
        generation = "" if self.generation is None else str(self.generation)
        values = (
            self.status,
            generation,
            self.time_utc,
            self.reason[:LONGEST_REASON],
            self.verdict[:LONGEST_REASON],
        )
        return {key: value for key, value in zip(KEYS, values, strict=True) if value}


@dataclass(frozen=True)
class FailedVersion:
    """A version that failed, why, and when; where it came from, as far as that is known; and whether it was live and a bake found it bad."""

    version: int
    reason: str
    at_utc: str
    origin: Origin | None = None
    was_live: bool = False

    def has_files_of(self, named: Registered) -> bool:
        """Whether it failed with the files of the version that an alias names, whatever number that has."""
        if self.origin is None:
            return False
        return same_files(self.origin, named.origin)


@dataclass(frozen=True)
class Change:
    """A tag that is to be set, or deleted when ``value`` is None."""

    version: int
    key: str
    value: str | None


def standings(
    releases: Sequence[Release],
    failed: Iterable[FailedVersion],
    verdicts: Mapping[int, str] | None = None,
) -> dict[int, Standing]:
    """Return how versions stand, as the repository has it.

    Args:
        releases: newest first.
        failed: versions that were rolled back, in any order.
        verdicts: how releases were judged, by their generation.
    """
    found: dict[int, Standing] = {}
    known_before = _known_before(releases)
    loaded = releases[0].loaded_versions if releases else ()
    for after, release in zip([None, *releases], releases, strict=False):
        version = release.active_version
        if version not in found:
            since = after or release
            status = LIVE if after is None else WARM if version in loaded else RETIRED
            taken_back = after is not None and after.active_version in known_before[release.generation]
            found[version] = Standing(
                status=status,
                time_utc=since.updated_at_utc,
                generation=release.generation,
                reason=since.reason if taken_back else "",
                verdict=(verdicts or {}).get(release.generation, ""),
                origin=Origin(run_id=release.run_id, digest=release.digest),
            )
    for failure in sorted(failed, key=lambda failure: failure.at_utc):
        known = found.get(failure.version)
        if failure.version not in loaded and (known is None or known.time_utc <= failure.at_utc):
            found[failure.version] = Standing(
                status=FAILED,
                time_utc=failure.at_utc,
                generation=known.generation if known else None,
                reason=failure.reason,
                origin=failure.origin or (known.origin if known else None),
            )
    return found


def _known_before(releases: Sequence[Release]) -> dict[int, set[int]]:
    """Return which versions had been live before each release, by its generation: who goes back to one of them takes the release back."""
    found: dict[int, set[int]] = {}
    earlier: set[int] = set()
    for release in reversed(releases):
        found[release.generation] = earlier - {release.active_version}
        earlier = earlier | {release.active_version}
    return found


def changes(standing: Mapping[int, Standing], shown: Mapping[int, Registered], prefix: str) -> list[Change]:
    """Return what has to be changed for the registry to show how versions stand.

    Args:
        standing: as the repository has it. A version of which it knows nothing keeps its tags, unless they claim that it is loaded.
            Another version of the same number loses them: they tell of the former one.
        shown: the versions that the registry has.
        prefix: what the tags begin with.
    """
    found = []
    for version, registered in shown.items():
        tags, known = registered.tags, standing.get(version)
        if known is not None and not known.is_of(registered):
            found += [Change(version, f"{prefix}.{key}", None) for key in KEYS if f"{prefix}.{key}" in tags]
            continue
        wanted = known.tags() if known else None
        if wanted is None:
            if tags.get(f"{prefix}.status") in (LIVE, WARM):
                found.append(Change(version, f"{prefix}.status", RETIRED))
            continue
        for key in KEYS:
            if wanted.get(key) != tags.get(f"{prefix}.{key}"):
                found.append(Change(version, f"{prefix}.{key}", wanted.get(key)))
    return found


def drift(
    live: Release | None,
    named: Registered | None,
    refused: Iterable[FailedVersion] = (),
    here: Origin | None = None,
) -> str:
    """Return what to know and do when the alias that was deployed means something else now, or nothing.

    Args:
        live: what serves.
        named: the version that its alias names, as the registry has it; None when it is not set.
        refused: versions in quarantine by their own fault, which are not deployed again.
        here: where the repository's version of the number that the alias names came from, if there is one.
    """
    if live is None or not live.alias:
        return ""
    another = named is not None and here is not None and is_another(here, named.origin)
    if named is not None and named.version == live.active_version and not another:
        return ""
    alias = f"Alias {live.alias} of {live.model}"
    if named is None:
        return (
            f"{alias} is not set in MLflow any more, and version {live.active_version} serves. Set it to version "
            f"{live.active_version} again, or to the version that is to be deployed."
        )
    what = f"{alias} names version {named.version} in MLflow, and version {live.active_version} serves."
    refused = list(refused)
    if here is not None and another:
        what = _told_apart(live, named, here, what)
        failed = next((one for one in refused if one.has_files_of(named)), None)
        return f"{what} {_way_on(live, named, here) if failed is None else _no_way_on(live, named, failed)}"
    of_it = (one for one in refused if one.version == named.version and not _is_former(one, named))
    failed = next(of_it, None) or next((one for one in refused if one.has_files_of(named)), None)
    if failed is not None:
        return f"{what} {_no_way_on(live, named, failed)}"
    return (
        f"{what} Deploy it (triton-deploy deploy {live.model} --alias {live.alias}), or set the alias to version "
        f"{live.active_version}."
    )


def _told_apart(live: Release, named: Registered, here: Origin, what: str) -> str:
    """Say that the alias names another version of a number that the repository knows."""
    number, of_it = named.version, f"({here.run}): the model was deleted in MLflow and made anew."
    if number == live.active_version:
        return (
            f"Alias {live.alias} of {live.model} names version {number} of {named.origin.run} in MLflow, which is another version "
            f"{number} than the one that serves {of_it}"
        )
    return f"{what} Version {number} of {named.origin.run} is another one than version {number} in the repository {of_it}"


def _way_on(live: Release, named: Registered, here: Origin) -> str:
    """Say how the version that the alias names can be deployed; one with the same files needs no other number."""
    if here.digest and here.digest == named.origin.digest:
        return f"Its files are the same: deploy it (triton-deploy deploy {live.model} --alias {live.alias})."
    return way_forward(live.model, live.alias)


def _no_way_on(live: Release, named: Registered, failed: FailedVersion) -> str:
    """Say why the version that the alias names is not to be deployed, and what to do instead."""
    same = "" if failed.version == named.version else f"It has the files of version {failed.version}. "
    what = "is not deployed again without --force" if failed.was_live else "is in quarantine"
    return (
        f"{same}Version {failed.version} failed ({failed.reason.rstrip('.')}) and {what}. Set the alias back to version "
        f"{live.active_version}, or register a repaired version and set it to that."
    )


def _is_former(failed: FailedVersion, named: Registered) -> bool:
    return failed.origin is not None and is_another(failed.origin, named.origin)


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
            found = changes(wanted, shown, self._settings.feedback_prefix)
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
            return within(self._settings.feedback_timeout_s, doing, action)
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
