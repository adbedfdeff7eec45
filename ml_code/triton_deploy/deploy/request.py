"""Requests, and how a request becomes the first record of a deployment."""

from __future__ import annotations

import getpass
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from ..clients.artifacts import ArtifactStore
from ..clients.registry import RegisteredVersion, no_onnx
from ..errors import ArtifactRejected, InvalidInput, NotFound, Superseded
from ..repository import ModelFolder
from ..repository.lease import CLOCK_SKEW_S
from ..repository.verdicts import not_bad
from ..rules.deployment import Canary, Deployment, Pinned, State
from ..rules.identity import has_content_of, refuse_another
from ..rules.moments import utc_text
from ..rules.names import check_version
from ..rules.release import UNVERIFIED, Release
from ..rules.version_files import MODEL_FILE, Manifest, source_fingerprint

log = logging.getLogger(__name__)

_SKEW = timedelta(seconds=CLOCK_SKEW_S)


@dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """A request to deploy the version that an alias names.

    Attributes:
        model: model name, in MLflow and in Triton.
        alias: MLflow alias to deploy.
        deploy_id: id that ties the steps together (see ``names.deploy_id_for``).
        actor: the user or run that asks, for the history.
        reason: the reason, for the history.
        allow_schema_change: accept inputs and outputs that break clients of the live version.
        force: accept an artifact that is in quarantine.
        canary: the candidate's share of the clients' traffic before the commit (see ``canary.canary_of``);
            by default none.
        version: the version that the alias has to name; by default any.
        since: start of the run that asks, if it may repeat the request. A deployment of this id that ended
            before that belongs to another run; by default every ended deployment does.
    """

    model: str
    alias: str
    deploy_id: str
    actor: str = ""
    reason: str = ""
    allow_schema_change: bool = False
    force: bool = False
    canary: Canary | None = None
    version: int | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        """Raise InvalidInput for a number that no version has."""
        _check_named(self.version)


@dataclass(frozen=True, kw_only=True)
class RevertRequest:
    """A request to make an earlier version live again.

    Attributes:
        model: model name.
        deploy_id: id of the deployment that the revert is.
        version: a version that was live before; by default the version that the live one replaced.
        actor: the user or run that asks, for the history.
        reason: the reason, for the history.
        only_generation: the release that is to be taken back; nothing is done when another release is live.
        unverified: do not compare the version's files with its release; for an emergency, and only with a
            reason.
    """

    model: str
    deploy_id: str
    version: int | None = None
    actor: str = ""
    reason: str = ""
    only_generation: int | None = None
    unverified: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidInput for a number that no version has."""
        _check_named(self.version)


def pinned_version(
    request: DeployRequest,
    found: RegisteredVersion,
    stores: Callable[[str], ArtifactStore],
    folder: ModelFolder,
) -> Pinned:
    """Return the version that an alias names, with the place of its ``model.onnx``.

    The files of a deleted run may be gone from the artifact store. Then a version that was live before is
    taken from the
    repository: it is of the same run, and its files are compared with its manifest before they are loaded.

    Args:
        request: the request.
        found: the version that the alias names.
        stores: gives the artifact store of a location.
        folder: the model's place in the repository.

    Raises:
        Superseded: it is not the version that the request names.
        ArtifactRejected: it has no ``model.onnx`` in any place.
        NotFound: its run is gone, and MLflow knows no other place of its files.
        DeployError: the artifact store refuses or does not answer.
    """
    if request.version not in (None, found.version):
        raise Superseded(
            f"Alias {request.alias} of {request.model} names version {found.version}, and version {request.version} was to be deployed.",
            hint="Somebody moved the alias meanwhile: deploy what it names now, or set it back.",
        )
    try:
        return _pinned_in_store(request, found, stores)
    except (ArtifactRejected, NotFound):
        kept = _pinned_in_repository(request, found, folder)
        if kept is None:
            raise
        return kept


def _pinned_in_store(
    request: DeployRequest, found: RegisteredVersion, stores: Callable[[str], ArtifactStore]
) -> Pinned:
    for uri in found.artifact_uris:
        files = stores(uri).list_files(uri)
        if any(file.path == MODEL_FILE for file in files):
            return Pinned(
                version=found.version,
                run_id=found.run_id,
                alias=request.alias,
                artifact_uri=uri,
                fingerprint=source_fingerprint(uri, files),
                expected_digest=found.expected_digest,
            )
    raise no_onnx(request.model, found.version, found.artifact_uris)


def _pinned_in_repository(
    request: DeployRequest, found: RegisteredVersion, folder: ModelFolder
) -> Pinned | None:
    """Return a version that was live, as the repository has it; None when that may be another version."""
    installed = folder.versions.manifest(found.version)
    if installed is None or not found.run_id or installed.run_id != found.run_id:
        return None
    if found.expected_digest not in ("", installed.digest):
        return None
    if not folder.releases.releases_version(found.version):
        return None
    log.warning(
        "the files of version %s of %s are gone from the artifact store: those in the model repository are taken",
        found.version,
        request.model,
    )
    return Pinned(
        version=found.version,
        run_id=found.run_id,
        alias=request.alias,
        artifact_uri=installed.artifact_uri,
        fingerprint=installed.fingerprint,
        expected_digest=installed.digest,
    )


def refuse_taken_number(folder: ModelFolder, pinned: Pinned) -> None:
    """Raise AnotherVersion when the number was released from another run or source."""
    installed = folder.versions.manifest(pinned.version)
    if installed is None or has_content_of(installed, pinned):
        return
    # A version that was never released is out of the way: materialize sets it aside.
    if folder.releases.releases_version(pinned.version):
        refuse_another(folder.model, pinned, installed)


def deploy_record(
    request: DeployRequest, pinned: Pinned, live: Release | None, unchanged: bool, now: datetime
) -> Deployment:
    """Return the first record of a deploy.

    Args:
        request: the request.
        pinned: the version that its alias names.
        live: the last release, or None.
        unchanged: whether every Triton serves that version already.
        now: aware time.
    """
    state = State.UNCHANGED if unchanged else State.PINNED
    return Deployment(
        deploy_id=request.deploy_id,
        model=request.model,
        state=state,
        pinned=pinned,
        base_generation=live.generation if live else 0,
        base_version=live.active_version if live else None,
        actor=request.actor or whoever(),
        reason=request.reason,
        allow_schema_change=request.allow_schema_change,
        force=request.force,
        canary=request.canary,
        digest=live.digest if unchanged and live else "",
        times_utc={state: utc_text(now)},
    )


def revert_record(
    request: RevertRequest, live: Release | None, folder: ModelFolder, now: datetime
) -> Deployment:
    """Return the first record of a revert; its files are in the repository, so the load is due next.

    Args:
        request: the request.
        live: the last release, or None.
        folder: the model's place in the repository.
        now: aware time.

    Raises:
        InvalidInput: the request forbids the comparison of files, and gives no reason.
        NotFound: no version is live, there is no earlier one, the version was never live, or its files are
            gone.
        Superseded: another release is live than the one that is to be taken back.
    """
    if request.unverified and not request.reason.strip():
        raise InvalidInput(
            "A revert without a look at the files needs a reason, for the history.",
            hint="Add it (--reason, or the parameter reason), or revert without 'unverified'.",
        )
    if live is None:
        raise NotFound(f"No version of {request.model} is live.", hint="Deploy one: triton-deploy deploy.")
    if request.only_generation not in (None, live.generation):
        raise Superseded(
            f"Release {request.only_generation} of {request.model} is not live any more, release {live.generation} "
            f"(version {live.active_version}) is.",
            hint="Nothing is to be taken back.",
        )
    last, manifest = _release_to_go_back_to(request, live, folder)
    state = State.UNCHANGED if last.active_version == live.active_version else State.MATERIALIZED
    return Deployment(
        deploy_id=request.deploy_id,
        model=request.model,
        state=state,
        pinned=Pinned(
            version=last.active_version,
            run_id=manifest.run_id,
            alias=last.alias,
            artifact_uri=manifest.artifact_uri,
            fingerprint=manifest.fingerprint,
            expected_digest=manifest.digest,
        ),
        base_generation=live.generation,
        base_version=live.active_version,
        actor=request.actor or whoever(),
        reason=f"{UNVERIFIED if request.unverified else ''}{request.reason or f'revert of version {live.active_version}'}",
        unverified=request.unverified,
        digest=last.digest,
        manifest_digest=last.manifest_digest,
        times_utc={state: utc_text(now)},
    )


def _release_to_go_back_to(
    request: RevertRequest, live: Release, folder: ModelFolder
) -> tuple[Release, Manifest]:
    """Return the last release of the version to go back to, and its manifest; raises NotFound."""
    model, version = request.model, request.version or _version_before(live, folder)
    last = next((release for release in folder.releases.history() if release.active_version == version), None)
    if last is None:
        raise NotFound(
            f"Version {version} of {model} was never live.",
            hint="Deploy it by its alias; 'triton-deploy history' lists what was live.",
        )
    manifest = folder.versions.manifest(version)
    if manifest is None:
        raise NotFound(
            f"Version {version} of {model} was live (release {last.generation}), but its files were removed: the retention "
            "keeps those of the last TRITON_DEPLOY_KEEP_RELEASES releases.",
            hint=f"Deploy it again: point an alias at version {version} in MLflow, then triton-deploy deploy {model} --alias ….",
        )
    return last, manifest


def _version_before(live: Release, folder: ModelFolder) -> int:
    """Return the version that the live one replaced, or an earlier one if that is bad; raises NotFound."""
    if live.previous_version is None:
        raise NotFound(
            f"Version {live.active_version} of {folder.model} replaced none.",
            hint="Name a version of 'triton-deploy history' with --to.",
        )
    earlier = (
        release.active_version
        for release in folder.releases.history()
        if release.active_version != live.active_version
    )
    version = not_bad(folder, chain([live.previous_version], earlier))
    if version is None:
        raise NotFound(
            f"Version {live.active_version} of {folder.model} replaced version {live.previous_version}, which a bake found bad, as every "
            "other one that was live.",
            hint=f"To go back to it all the same, name it: --to {live.previous_version}.",
        )
    return version


def comes_first(request: RevertRequest) -> str:
    """Return a sentence that says whose revert ended a canary, for the canary's record."""
    who = request.actor or whoever()
    why = f": {request.reason}" if request.reason else ""
    return f"A revert of {request.model} by {who} came first, and nothing of this deployment was switched yet{why}."


def taken_up(request: DeployRequest, record: Deployment) -> Deployment:
    """Return the deployment that a repeated snapshot goes on with.

    Raises:
        Superseded: it is of another request, it had ended before, or it was rolled back.
    """
    if request.version not in (None, record.version):
        raise Superseded(
            f"Deployment {record.deploy_id} of {record.model} is of version {record.version}, and version {request.version} was to be deployed.",
            hint="A run deploys one version: trigger a new run.",
        )
    for what, asked, known in (
        ("alias", request.alias, record.pinned.alias),
        ("force", request.force, record.force),
        ("allow_schema_change", request.allow_schema_change, record.allow_schema_change),
        ("canary", _asked_for(request.canary), _asked_for(record.canary)),
    ):
        if asked != known:
            raise _used_up(record, f"was asked for with {what} {known!r}, and now with {asked!r}")
    still_wanted(record)
    if record.finished and (request.since is None or record.last_time < request.since - _SKEW):
        raise _used_up(record, f"ended at {utc_text(record.last_time)}: {record.state}")
    return record


def _asked_for(canary: Canary | None) -> tuple[object, ...] | None:
    """Return the requested part of a canary, without its progress."""
    return (canary.shares_percent, canary.shadow_percent, canary.step_s, canary.waits) if canary else None


def _used_up(record: Deployment, why: str) -> Superseded:
    return Superseded(
        f"The deploy id {record.deploy_id} of {record.model} is another deployment's, of version {record.version}, which {why}. "
        "Nothing was done.",
        hint="Take a new deploy id for each deploy, in CI one with the number of the build.",
    )


def still_wanted(record: Deployment) -> Deployment:
    """Return a deployment that may go on; raises Superseded when it was rolled back."""
    if record.state in (State.ROLLING_BACK, State.ROLLED_BACK):
        why = f": {record.failure.step}: {record.failure.error}" if record.failure else "."
        raise Superseded(
            f"Deployment {record.deploy_id} of {record.model} was rolled back{why}",
            hint="A deployment that was rolled back is not taken up again: trigger a new run.",
        )
    return record


def _check_named(version: int | None) -> None:
    if version is not None:
        check_version(version)


def whoever() -> str:
    """Return the user and the machine that act, for the history."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
