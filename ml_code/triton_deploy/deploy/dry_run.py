"""The dry run of a command: its own decisions (``decide``), taken by looking alone.

A dry run takes no lease, writes no file and loads nothing. A plan says everything that is known beforehand,
also when the
command would be refused: ``obstacles`` holds the errors that would end it, in the order in which it would
meet them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import DeployError, LeaseHeld, Quarantined, TakenBack
from ..repository.verdicts import refuse_bad
from ..rules.canary import steps_of
from ..rules.deployment import Canary, Deployment, Pinned, State
from ..rules.names import check_deploy_id
from ..settings import Settings
from .collaborators import Collaborators
from .decide import MakeRecord, decide_deploy, decide_revert, way_back
from .deployments import Deployments
from .integrity import damage, refuse
from .materialize import Materializer, refuse_quarantined
from .request import DeployRequest, RevertRequest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command would do to a model.

    Attributes:
        model: its name.
        serves: a sentence that names the live version, which stays live.
        does: what would be done, a sentence each, in order; with obstacles, what it would be without them.
        obstacles: the errors that it would end with, the first in front.
        facts: known values by name (JSON values).
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
class _LookingHands:
    """The hands of a dry run: each refusal is noted, and nothing is changed; see decide.Hands.

    Attributes:
        deployments: the model's deployments.
        does: what the command would do, a sentence each.
        obstacles: the errors that would end it.
        facts: known values by name.
    """

    deployments: Deployments
    does: list[str] = field(default_factory=list)
    obstacles: list[DeployError] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Note the error that ends the block."""
        try:
            yield
        except DeployError as error:
            self.obstacles.append(error)

    def settle(self, deploy_id: str) -> None:
        """Note the deployment that would be settled, or that is under way."""
        self.facts.setdefault("under_way", None)
        if self.facts["under_way"] is not None:
            return
        try:
            abandoned = self.deployments.abandoned(deploy_id)
        except LeaseHeld as error:
            self.obstacles.append(error)
            self.facts["under_way"] = self.deployments.folder.lease.last(self.deployments.clock())[0]
            return
        if abandoned:
            self.does.append(f"settle the abandoned deployment {abandoned}")

    def end_trial(self, deploy_id: str, why: str) -> None:
        """Note the canary that would be rolled back."""
        trial = self.deployments.on_trial(deploy_id)
        if trial is not None:
            self.does.append(f"roll back deployment {trial.deploy_id}, whose candidate is only on trial")
            self.facts["under_way"] = trial.deploy_id

    def begin(self, deploy_id: str, make: MakeRecord) -> Deployment:
        """Make the first record, and write none."""
        return make(self.deployments.folder.releases.latest())

    def plan(self) -> Plan:
        """Return the plan with everything that was noted."""
        return Plan(
            model=self.deployments.folder.model,
            serves=self.deployments.last.what_serves(),
            does=tuple(self.does),
            obstacles=tuple(self.obstacles),
            facts=self.facts,
        )


def plan_deploy(request: DeployRequest, deployments: Deployments, via: Collaborators) -> Plan:
    """Plan a deploy.

    The alias is resolved and the files are listed. Files that are in the repository already are read, no
    others.

    Args:
        request: the request.
        deployments: the model's deployments.
        via: registry and artifact stores.

    Raises:
        InvalidInput: a name that can't be.
        StorageFailed: the repository can't be looked at.
    """
    hands = _LookingHands(deployments)
    decision = decide_deploy(request, deployments, via, hands)
    if decision.known:
        _say_known(hands, decision.begun)
        return hands.plan()
    if decision.found is not None:
        hands.facts |= {"version": decision.found.version, "run_id": decision.found.run_id}
    if decision.pinned is not None:
        with hands.checking():
            _say_files(hands, decision.pinned, request, via)
            if decision.deployment is not None:
                _say_deploy(hands, decision.deployment, via)
    return hands.plan()


def plan_revert(request: RevertRequest, deployments: Deployments) -> Plan:
    """Plan a revert; the version's files are compared with its release, unless the request forbids it.

    Args:
        request: the request.
        deployments: the model's deployments.

    Raises:
        InvalidInput: a name that can't be.
        StorageFailed: the repository can't be looked at.
    """
    hands = _LookingHands(deployments)
    decision = decide_revert(request, deployments, hands)
    if decision.known:
        _say_known(hands, decision.begun)
    elif decision.deployment is not None:
        with hands.checking():
            _say_revert(hands, decision.deployment)
    return hands.plan()


def plan_rollback(deploy_id: str, deployments: Deployments) -> Plan:
    """Plan a rollback: to undo the deployment, or to finish it past its decision.

    Args:
        deploy_id: the deployment.
        deployments: the model's deployments.

    Raises:
        InvalidInput: a name that can't be.
        StorageFailed: the repository can't be looked at.
    """
    hands = _LookingHands(deployments)
    record = deployments.folder.journal.find(check_deploy_id(deploy_id))
    due = way_back(record)
    hands.facts["state"] = record.state if record else None
    if record is None:
        hands.does.append(f"nothing: deployment {deploy_id} had not begun")
        return hands.plan()
    hands.facts["version"] = record.version
    if due.nothing:
        hands.does.append(f"nothing: deployment {deploy_id} is {record.state}")
        return hands.plan()
    with hands.checking():
        deployments.folder.evidence.require()
    hands.settle(deploy_id)
    if due.finishes:
        hands.does.append(
            f"finish the commit of version {record.version}: deployment {deploy_id} is past its decision"
        )
        return hands.plan()
    hands.does.append(f"undo deployment {deploy_id} of version {record.version}, which is {record.state}")
    if due.switches_back:
        hands.does.append("point the public name at what is live, on every Triton")
    manifest = deployments.folder.versions.manifest(record.version)
    if manifest is not None and manifest.deploy_id == deploy_id:
        hands.does.append(f"put the files of version {record.version} into quarantine")
    return hands.plan()


def _say_known(hands: _LookingHands, known: Deployment) -> None:
    """Say how a deployment that began before goes on."""
    hands.facts |= {"version": known.version, "run_id": known.pinned.run_id, "state": known.state}
    if known.due_step is None:
        hands.does.append(f"nothing: deployment {known.deploy_id} is {known.state}")
    elif not hands.obstacles:
        hands.does.append(f"go on with deployment {known.deploy_id} at {known.due_step}")


def _say_files(hands: _LookingHands, pinned: Pinned, request: DeployRequest, via: Collaborators) -> None:
    """Say which files the version has, and whether a verdict or the quarantine refuses them."""
    folder = hands.deployments.folder
    files = via.stores(pinned.artifact_uri).list_files(pinned.artifact_uri)

    def refuse_by_digest() -> None:
        refuse_quarantined(folder.quarantine, digest=pinned.expected_digest, fingerprint=pinned.fingerprint)

    hands.facts |= {
        "artifact_uri": pinned.artifact_uri,
        "files": [asdict(file) for file in files],
        "bytes": sum(file.size_bytes for file in files),
        "free_bytes": folder.staging.free_bytes(),
        "quarantined": _refuses(refuse_by_digest, Quarantined),
        "taken_back": _refuses(lambda: refuse_bad(folder, pinned), TakenBack),
    }
    # The deploy compares the digest when the files are here; the snapshot has compared their names and sizes.
    if not request.force and not any(isinstance(known, Quarantined) for known in hands.obstacles):
        with hands.checking():
            refuse_by_digest()


def _refuses(check: Callable[[], object], kind: type[DeployError]) -> bool:
    try:
        check()
    except kind:
        return True
    return False


def _say_deploy(hands: _LookingHands, record: Deployment, via: Collaborators) -> None:
    """Say what the steps after the snapshot would do, and what would refuse them before a byte is read."""
    folder, settings, version = hands.deployments.folder, via.settings, record.version
    hands.facts["is_live"] = record.state is State.UNCHANGED
    if record.state is State.UNCHANGED:
        hands.does.append(f"nothing: version {version} is live already")
        return
    uri = record.pinned.artifact_uri
    files = via.stores(uri).list_files(uri)
    materializer = Materializer(settings, folder, lambda: via.stores(uri), via.sign)
    copied = materializer.is_to_be_copied(record, lambda: folder.releases.releases_version(version))
    brought = (
        f"copy {len(files)} files, {hands.facts['bytes']} bytes"
        if copied
        else "copy nothing: its files are here"
    )
    staging = settings.triton.staging_grpc_url
    tried = f"try version {version} in the staging Triton at {staging}, then " if staging else ""
    hands.does.append(f"{brought}; {tried}load and check version {version} beside what serves")
    if record.canary is not None and record.base_version is not None:
        hands.does.append(_of_canary(record.canary, settings))
    hands.does.append(f"make it live as release {record.generation}")
    materializer.check_before(record, copied, files)
    if not copied:
        refuse(folder, version, list(damage(folder, version, deep=True)))


def _say_revert(hands: _LookingHands, record: Deployment) -> None:
    """Say how a revert would make its version live, and whether the files are those of its release."""
    folder, version = hands.deployments.folder, record.version
    live = folder.releases.latest()
    warm = live is not None and version in live.loaded_versions
    found = [] if record.unverified else list(damage(folder, version, deep=True))
    hands.facts |= {"version": version, "run_id": record.pinned.run_id, "warm": warm, "damage": found}
    if record.state is State.UNCHANGED:
        hands.does.append(f"nothing: version {version} is live already")
        return
    how = "which is warm: it is not loaded again" if warm else "which has to be loaded first"
    if record.unverified:
        how += "; its files are not looked at"
    hands.does.append(f"make version {version} live as release {record.generation}, {how}")
    refuse(folder, version, found)


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
