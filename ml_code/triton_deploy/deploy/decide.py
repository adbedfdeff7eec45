"""The decisions of a deploy, a revert and a rollback, in order, for the command and its dry run alike.

The two differ in their hands (``Hands``). A command raises the first refusal, settles an abandoned
deployment and takes the lease. A dry run notes each refusal and goes on, and changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..clients.registry import RegisteredVersion, wait_for_alias
from ..errors import IllegalTransition
from ..fleet.foreign import refuse_foreign
from ..repository.verdicts import refuse_bad
from ..rules.deployment import Deployment, Pinned, State
from ..rules.names import check_alias, check_deploy_id
from ..rules.release import Release
from .materialize import refuse_quarantined
from .request import (
    DeployRequest,
    RevertRequest,
    comes_first,
    deploy_record,
    pinned_version,
    refuse_taken_number,
    revert_record,
    still_wanted,
    taken_up,
)

if TYPE_CHECKING:
    from .collaborators import Collaborators
    from .deployments import Deployments

log = logging.getLogger(__name__)

MakeRecord = Callable[[Release | None], Deployment]
"""Makes the first record of a deployment on top of the live release."""


class Hands(Protocol):
    """The acts on the way of a decision."""

    def checking(self) -> AbstractContextManager[None]:
        """Return the context of one check, which may refuse with a DeployError."""

    def settle(self, deploy_id: str) -> None:
        """Settle the abandoned deployment that has the lease; raises LeaseHeld if it is under way."""

    def end_trial(self, deploy_id: str, why: str) -> None:
        """End a canary that has the lease, because a revert comes first."""

    def begin(self, deploy_id: str, make: MakeRecord) -> Deployment:
        """Take the lease, and make and write the first record."""


@dataclass
class Decision:
    """The outcome of a decision; a dry run that met a refusal has only a part of it.

    Attributes:
        deployment: the deployment that begins, or the known one of this id.
        known: whether it began before.
        found: the version that the alias names.
        pinned: that version, with the place of its files.
    """

    deployment: Deployment | None = None
    known: bool = False
    found: RegisteredVersion | None = None
    pinned: Pinned | None = None

    @property
    def begun(self) -> Deployment:
        """The deployment; raises IllegalTransition when a check refused it."""
        if self.deployment is None:
            raise IllegalTransition(
                "The deployment was refused, and did not begin.", hint="This is a defect."
            )
        return self.deployment


def decide_deploy(
    request: DeployRequest, deployments: Deployments, via: Collaborators, hands: Hands
) -> Decision:
    """Decide a deploy: whether it may begin, the version that the alias means, and the first record.

    Raises:
        DeployError: see Deployer.snapshot; with the hands of a dry run, InvalidInput and StorageFailed alone.
    """
    check_deploy_id(request.deploy_id)
    check_alias(request.alias)
    folder = deployments.folder
    with hands.checking():
        via.refuse_unmeasured(request.canary)
    known = folder.journal.find(request.deploy_id)
    if known is not None:
        with hands.checking():
            taken_up(request, known)
        return Decision(known, known=True)
    with hands.checking():
        folder.traps.refuse()
    with hands.checking():
        refuse_foreign(folder, deployments.serving, via.settings.repository_root)
    hands.settle(request.deploy_id)
    decision = Decision()
    with hands.checking():
        decision.found = wait_for_alias(via.registry(), request.model, request.alias, via.settings, log.info)
        decision.pinned = pinned_version(request, decision.found, via.stores, folder)
    if decision.pinned is not None:
        _decide_pinned(decision, decision.pinned, request, deployments, hands)
    return decision


def _decide_pinned(
    decision: Decision, pinned: Pinned, request: DeployRequest, deployments: Deployments, hands: Hands
) -> None:
    folder = deployments.folder
    with hands.checking():
        folder.ownership.refuse_version(pinned.version)
    if not request.force:
        with hands.checking():
            refuse_quarantined(folder.quarantine, fingerprint=pinned.fingerprint)
        with hands.checking():
            refuse_bad(folder, pinned)

    def first_record(live: Release | None) -> Deployment:
        refuse_taken_number(folder, pinned)
        unchanged = live is not None and deployments.last.is_served(live, pinned)
        return deploy_record(request, pinned, live, unchanged, deployments.clock())

    with hands.checking():
        decision.deployment = hands.begin(request.deploy_id, first_record)


def decide_revert(request: RevertRequest, deployments: Deployments, hands: Hands) -> Decision:
    """Decide a revert: whether it may begin, the version to go back to, and the first record.

    Raises:
        DeployError: see Deployer.revert; with the hands of a dry run, InvalidInput and StorageFailed alone.
    """
    folder = deployments.folder
    known = folder.journal.find(check_deploy_id(request.deploy_id))
    if known is not None:
        with hands.checking():
            still_wanted(known)
        return Decision(known, known=True)
    with hands.checking():
        folder.traps.refuse()
    with hands.checking():
        folder.evidence.require()

    def first_record(live: Release | None) -> Deployment:
        return revert_record(request, live, folder, deployments.clock())

    decision = Decision()
    with hands.checking():
        # A revert that is refused, or is done already, ends no canary.
        if not first_record(folder.releases.latest()).finished:
            hands.end_trial(request.deploy_id, comes_first(request))
        hands.settle(request.deploy_id)
        decision.deployment = hands.begin(request.deploy_id, first_record)
    return decision


@dataclass(frozen=True)
class WayBack:
    """The parts of a rollback that a deployment needs.

    Attributes:
        nothing: it had not begun, or has ended.
        finishes: it is past its decision: its commit is finished.
        switches_back: clients may have reached the candidate: the public name is put back on every Triton.
    """

    nothing: bool = False
    finishes: bool = False
    switches_back: bool = False


def way_back(record: Deployment | None) -> WayBack:
    """Return what a rollback of a deployment does, by its record alone."""
    if record is None or record.finished:
        return WayBack(nothing=True)
    if record.state is State.COMMITTING:
        return WayBack(finishes=True)
    return WayBack(switches_back=State.SWITCHING in record.times_utc)


@dataclass(frozen=True)
class ActingHands:
    """The hands of a command: the first refusal ends it."""

    deployments: Deployments

    def checking(self) -> AbstractContextManager[None]:
        """See Hands.checking."""
        return contextlib.nullcontext()

    def settle(self, deploy_id: str) -> None:
        """See Hands.settle."""
        self.deployments.settle_abandoned(deploy_id)

    def end_trial(self, deploy_id: str, why: str) -> None:
        """See Hands.end_trial."""
        self.deployments.end_trial(deploy_id, why)

    def begin(self, deploy_id: str, make: MakeRecord) -> Deployment:
        """See Hands.begin; a failure leaves neither lease nor record."""
        folder = self.deployments.folder
        self.deployments.take_lease(deploy_id)
        try:
            record = folder.journal.append(make(folder.releases.latest()), None)
        except BaseException:
            folder.lease.release(deploy_id)
            raise
        if record.finished:
            folder.lease.release(deploy_id)
        return record
