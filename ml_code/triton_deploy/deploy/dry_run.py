"""What a command would do, found out by looking alone: no lease is taken, no file written, nothing loaded.

A plan says everything that can be known beforehand, also when the command would be refused: ``obstacles`` holds the errors that it
would end with, the one that it would meet first in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ..clients.artifacts import ArtifactStore
from ..clients.registry import Registry, wait_for_alias
from ..errors import DeployError, LeaseHeld, TakenBack
from ..fleet.foreign import refuse_foreign
from ..repository.verdicts import refuse_bad
from ..rules.canary import steps_of
from ..rules.deployment import Canary, Deployment, Pinned, State
from ..settings import Settings
from .deployments import Deployments
from .integrity import damage, refuse
from .materialize import Materializer, refuse_quarantined
from .request import (
    DeployRequest,
    RevertRequest,
    deploy_record,
    pinned_version,
    refuse_taken_number,
    revert_record,
    still_wanted,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command would do to a model.

    Attributes:
        model: its name.
        serves: a sentence on what is live now, and stays live.
        does: what would be done, a sentence each, in order; with obstacles, what it would be without them.
        obstacles: the errors that it would end with, the first in front.
        facts: what is known about it, by name (JSON values).
    """

    model: str
    serves: str
    does: tuple[str, ...]
    obstacles: tuple[DeployError, ...]
    facts: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """Exit code that the command would have, as far as can be known."""
        return self.obstacles[0].exit_code if self.obstacles else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "dry_run": True,
            "model": self.model,
            "serves": self.serves,
            "does": list(self.does),
            "obstacles": [
                {"error": error.kind, "message": error.message, "hint": error.hint}
                for error in self.obstacles
            ],
            **self.facts,
        }


@dataclass
class _Draft:
    """A plan in the making."""

    deployments: Deployments
    does: list[str] = field(default_factory=list)
    obstacles: list[DeployError] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def obstacle(self) -> Iterator[None]:
        """Note what the block is refused with, and go on."""
        try:
            yield
        except DeployError as error:
            self.obstacles.append(error)

    def look_at_lease(self, deploy_id: str, *, comes_first: bool = False) -> None:
        """Note a deployment that is under way, or one that would be settled first.

        Args:
            deploy_id: who wants the lease.
            comes_first: whether he ends a canary.
        """
        self.facts["under_way"] = None
        trial = self.deployments.on_trial(deploy_id) if comes_first else None
        if trial is not None:
            self.does.append(f"roll back deployment {trial.deploy_id}, whose candidate is only on trial")
            self.facts["under_way"] = trial.deploy_id
            return
        try:
            abandoned = self.deployments.abandoned(deploy_id)
        except LeaseHeld as error:
            self.obstacles.append(error)
            folder = self.deployments.folder
            self.facts["under_way"] = folder.lease.last(self.deployments.clock())[0]
            return
        if abandoned:
            self.does.append(f"settle the abandoned deployment {abandoned}")

    def done(self) -> Plan:
        return Plan(
            model=self.deployments.folder.model,
            serves=self.deployments.what_serves(),
            does=tuple(self.does),
            obstacles=tuple(self.obstacles),
            facts=self.facts,
        )


def plan_deploy(
    request: DeployRequest,
    deployments: Deployments,
    settings: Settings,
    registry: Callable[[], Registry],
    stores: Callable[[str], ArtifactStore],
    report: Callable[[str], None],
    refuse_request: Callable[[DeployRequest], None] = lambda request: None,
) -> Plan:
    """Find out what a deploy would do: the alias is resolved, the files are listed, and none of them is read; those that are here already are.

    Args:
        request: what is asked for.
        deployments: the model's deployments.
        settings: limits, and how long to wait for the alias.
        registry: gives the model registry.
        stores: gives the artifact store of a location.
        report: told when the alias is waited for.
        refuse_request: raises what the request alone is refused with.

    Raises:
        StorageFailed: the repository can't be looked at.
    """
    draft = _Draft(deployments)
    with draft.obstacle():
        refuse_request(request)
    known = deployments.folder.journal.find(request.deploy_id)
    if known is not None:
        _plan_of_known(draft, known)
        return draft.done()
    with draft.obstacle():
        refuse_foreign(deployments.folder, deployments.serving, settings.repository_root)
    with draft.obstacle():
        deployments.folder.versions.refuse_traps()
    draft.look_at_lease(request.deploy_id)
    with draft.obstacle():
        found = wait_for_alias(registry(), request.model, request.alias, settings, report)
        draft.facts |= {"version": found.version, "run_id": found.run_id}
        pinned = pinned_version(request, found, stores, deployments.folder)
        _plan_of_pinned(draft, request, pinned, settings, stores)
    return draft.done()


def plan_revert(request: RevertRequest, deployments: Deployments) -> Plan:
    """Find out what a revert would do; every byte of the version's files is read and compared with its release, unless it is not to be.

    Args:
        request: what is asked for.
        deployments: the model's deployments.

    Raises:
        StorageFailed: the repository can't be looked at.
    """
    draft = _Draft(deployments)
    folder = deployments.folder
    known = folder.journal.find(request.deploy_id)
    if known is not None:
        _plan_of_known(draft, known)
        return draft.done()
    with draft.obstacle():
        folder.evidence.require()
    with draft.obstacle():
        folder.versions.refuse_traps()
    draft.look_at_lease(request.deploy_id, comes_first=True)
    live = folder.releases.latest()
    with draft.obstacle():
        record = revert_record(request, live, folder, deployments.clock())
        warm = live is not None and record.version in live.loaded_versions
        found = [] if request.unverified else list(damage(folder, record.version, deep=True))
        draft.facts |= {
            "version": record.version,
            "run_id": record.pinned.run_id,
            "warm": warm,
            "damage": found,
        }
        if record.state is State.UNCHANGED:
            draft.does.append(f"nothing: version {record.version} is live already")
            return draft.done()
        how = "which is warm: it is not loaded again" if warm else "which has to be loaded first"
        if request.unverified:
            how += "; its files are not looked at"
        draft.does.append(f"make version {record.version} live as release {record.generation}, {how}")
        refuse(folder, record.version, found)
    return draft.done()


def plan_rollback(deploy_id: str, deployments: Deployments) -> Plan:
    """Find out what a rollback would do: undo the deployment, or finish it past its decision.

    Args:
        deploy_id: the deployment.
        deployments: the model's deployments.

    Raises:
        StorageFailed: the repository can't be looked at.
    """
    draft = _Draft(deployments)
    record = deployments.folder.journal.find(deploy_id)
    draft.facts["state"] = record.state if record else None
    if record is None:
        draft.does.append(f"nothing: deployment {deploy_id} had not begun")
        return draft.done()
    draft.facts["version"] = record.version
    if record.finished:
        draft.does.append(f"nothing: deployment {deploy_id} is {record.state}")
        return draft.done()
    with draft.obstacle():
        deployments.folder.evidence.require()
    draft.look_at_lease(deploy_id)
    if record.state is State.COMMITTING:
        draft.does.append(
            f"finish the commit of version {record.version}: deployment {deploy_id} is past its decision"
        )
        return draft.done()
    draft.does.append(f"undo deployment {deploy_id} of version {record.version}, which is {record.state}")
    if State.SWITCHING in record.times_utc:
        draft.does.append("point the public name at what is live, on every Triton")
    manifest = deployments.folder.versions.manifest(record.version)
    if manifest is not None and manifest.deploy_id == deploy_id:
        draft.does.append(f"put the files of version {record.version} into quarantine")
    return draft.done()


def _of_canary(canary: Canary, settings: Settings) -> str:
    """Say what a canary would do, and what ends its steps."""
    steps = ", ".join(
        f"{step}{' (then wait for a person)' if number in canary.waits else ''}"
        for number, step in enumerate(steps_of(canary), 1)
    )
    return (
        f"watch {canary.step_s / 60:g} minutes each, and until {settings.canary_requests} requests were seen, "
        f"{settings.canary.hold_minutes:g} minutes longer at most: {steps}"
    )


def _plan_of_known(draft: _Draft, known: Deployment) -> None:
    """A deployment of this id was begun before."""
    draft.facts |= {"version": known.version, "run_id": known.pinned.run_id, "state": known.state}
    with draft.obstacle():
        still_wanted(known)
    if not draft.obstacles:
        due = known.due_step
        draft.does.append(
            f"go on with deployment {known.deploy_id} at {due}"
            if due
            else f"nothing: deployment {known.deploy_id} is {known.state}"
        )


def _plan_of_pinned(
    draft: _Draft,
    request: DeployRequest,
    pinned: Pinned,
    settings: Settings,
    stores: Callable[[str], ArtifactStore],
) -> None:
    folder = draft.deployments.folder
    files = stores(pinned.artifact_uri).list_files(pinned.artifact_uri)
    draft.facts |= {
        "artifact_uri": pinned.artifact_uri,
        "files": [asdict(file) for file in files],
        "bytes": sum(file.size_bytes for file in files),
        "free_bytes": folder.versions.free_bytes(),
        "quarantined": False,
        "taken_back": False,
    }
    try:
        refuse_quarantined(folder.versions, digest=pinned.expected_digest, fingerprint=pinned.fingerprint)
    except DeployError as error:
        draft.facts["quarantined"] = True
        if not request.force:
            draft.obstacles.append(error)
    try:
        refuse_bad(folder, pinned)
    except TakenBack as error:
        draft.facts["taken_back"] = True
        if not request.force:
            draft.obstacles.append(error)
    with draft.obstacle():
        folder.ownership.refuse_version(pinned.version)
    live = folder.releases.latest()
    refuse_taken_number(folder, pinned)
    draft.facts["is_live"] = live is not None and draft.deployments.is_live(live, pinned)
    if draft.facts["is_live"]:
        draft.does.append(f"nothing: version {pinned.version} is live already")
        return
    record = deploy_record(request, pinned, live, False, draft.deployments.clock())
    materializer = Materializer(settings, folder.versions, lambda: stores(pinned.artifact_uri))
    copied = materializer.is_to_be_copied(record, folder.releases.releases_version(pinned.version))
    what = (
        f"copy {len(files)} files, {draft.facts['bytes']} bytes"
        if copied
        else "copy nothing: its files are here"
    )
    tried = (
        f"try version {pinned.version} in the staging Triton at {settings.triton.staging_grpc_url}, then "
        if settings.triton.staging_grpc_url
        else ""
    )
    draft.does.append(f"{what}; {tried}load and check version {pinned.version} beside what serves")
    if record.canary is not None and live is not None:
        draft.does.append(_of_canary(record.canary, settings))
    draft.does.append(f"make it live as release {record.generation}")
    with draft.obstacle():
        materializer.check_before(record, copied, files)
        if not copied:
            refuse(folder, pinned.version, list(damage(folder, pinned.version, deep=True)))
