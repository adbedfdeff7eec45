"""The deployments of one model: the lease, abandoned ones, a candidate on trial, and how each ends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from ..errors import DeployError, Superseded
from ..fleet.fleet import Fleet
from ..repository import ModelFolder
from ..rules.deployment import Deployment, Failure, State, advance
from ..rules.names import check_deploy_id
from ..rules.release import next_release
from ..settings import Settings
from . import steps
from .failures import failure_of, failure_without_error
from .last_release import LastRelease
from .step import TOLD_LIVE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployments:
    """The deployments of one model, as any worker may act on them.

    Attributes:
        folder: the model's place in the repository.
        serving: gives the model's Tritons; called only when they are needed.
        settings: lease and warm versions.
        clock: gives the time, aware.
        tell: called with a deployment that has ended, when nothing remains to be done; must not raise (see
            ``MlflowTags.tell``).
    """

    folder: ModelFolder
    serving: Callable[[], Fleet]
    settings: Settings
    clock: Callable[[], datetime]
    tell: Callable[[Deployment], None] = lambda record: None

    @cached_property
    def last(self) -> LastRelease:
        """The model's last release, and what follows it."""
        return LastRelease(self.folder, self.serving)

    # The lease

    def take_lease(self, deploy_id: str, duration_s: float | None = None) -> None:
        """Take or renew the lease for a deployment; a silent deployment that has it is settled first.

        Args:
            deploy_id: the deployment that takes it.
            duration_s: how long it lasts without a renewal, seconds; by default as long as a deploy's.

        Raises:
            LeaseHeld: another deployment has it.
            DeployError: the silent deployment can't be settled: see rollback.
        """
        self.settle_abandoned(deploy_id)
        self.folder.lease.acquire(deploy_id, self.clock(), duration_s or self._lease_s)

    def keep_lease(self, deploy_id: str) -> None:
        """Renew the lease of a deployment; raises Superseded when the deployment lost it."""
        self.folder.lease.renew(deploy_id, self.clock(), self._lease_s)

    def abandoned(self, deploy_id: str) -> str | None:
        """Return the silent deployment that has the lease; changes nothing.

        Args:
            deploy_id: the deployment that wants the lease.

        Raises:
            LeaseHeld: the deployment that has the lease is under way.
        """
        holder, in_force = self.folder.lease.last(self.clock())
        if holder is None or holder == deploy_id:
            return None
        record = self.folder.journal.find(holder)
        if in_force and (record is None or not record.finished):
            raise self.folder.lease.refusal()
        return holder

    def settle_abandoned(self, deploy_id: str) -> str | None:
        """Finish or undo the silent deployment that has the lease.

        Args:
            deploy_id: the deployment that wants the lease.

        Returns:
            The deployment that was settled, or None when there was none.

        Raises:
            LeaseHeld: the deployment that has the lease is under way.
            DeployError: see rollback.
        """
        holder = self.abandoned(deploy_id)
        if holder is None:
            return None
        record = self.folder.journal.find(holder)
        if record is not None and not record.finished:
            log.warning("deployment %s was abandoned at %s: settling it first", holder, record.state)
        self.rollback(holder)
        return holder

    @property
    def _lease_s(self) -> float:
        # A load can't renew the lease while it waits for Triton.
        return self.settings.lease_s + self.settings.triton.load_timeout_s

    # A candidate on trial

    def on_trial(self, deploy_id: str) -> Deployment | None:
        """Return the deployment that has the lease and whose candidate is only on trial; changes nothing.

        On trial: a canary was asked for, the candidate is loaded and verified, and the live version was not
        touched.

        Args:
            deploy_id: the deployment that wants the lease.
        """
        holder, _ = self.folder.lease.last(self.clock())
        record = self.folder.journal.find(holder) if holder and holder != deploy_id else None
        if record is None or record.canary is None or record.state not in (State.VERIFIED, State.TRIED):
            return None
        return record

    def end_trial(self, deploy_id: str, why: str) -> Deployment | None:
        """Roll back the deployment whose candidate is only on trial, because a revert comes first.

        The process of that deployment finds the fact at its next look. Its model is not blamed.

        Args:
            deploy_id: the revert that comes first.
            why: a sentence that says whose revert it is.

        Returns:
            The deployment that was rolled back; None when there was none, or when it went on to its commit
            at this moment.

        Raises:
            DeployError: see rollback.
        """
        record = self.on_trial(deploy_id)
        if record is None:
            return None
        error = Superseded(
            why, hint="Nothing is known against this version: deploy it again when you want it."
        )
        log.warning("deployment %s is only on trial: it is rolled back. %s", record.deploy_id, why)
        try:
            self.folder.journal.sync(record.deploy_id)
            self.move(record, State.ROLLING_BACK, failure=self.failure("canary", error))
        except Superseded:
            if not self.is_given_up(record.deploy_id):
                return None
        return self.rollback(record.deploy_id)

    # The record of a deployment

    def move(self, record: Deployment, to: State, **facts: Any) -> Deployment:
        """Record a state.

        Raises:
            Superseded: another process recorded a fact first.
            IllegalTransition: the table of transitions does not have it.
        """
        return self.folder.journal.append(advance(record, to, self.clock(), **facts), record)

    def failure(self, step: str, error: BaseException) -> Failure:
        """Return what a record keeps of an error."""
        return failure_of(step, error, self.clock())

    def failure_without_error(self, record: Deployment, by: str = "") -> Failure:
        """Return the failure of a process that recorded no error: see failures.failure_without_error."""
        return failure_without_error(record, self.serving, self.clock(), by)

    def is_decided(self, deploy_id: str) -> bool:
        """Whether a deployment is past its decision; also True when its record can't be read.

        The fact may be there although writing it ended in an error. Then the process that goes on from the
        record decides what clients get.
        """
        try:
            record = self.folder.journal.find(deploy_id)
        except DeployError:
            return True
        return record is not None and record.state in (State.COMMITTING, State.COMMITTED)

    def is_given_up(self, deploy_id: str) -> bool:
        """Whether a deployment is being rolled back, or was."""
        record = self.folder.journal.find(deploy_id)
        return record is not None and record.state in (State.ROLLING_BACK, State.ROLLED_BACK)

    # The way back

    def rollback(self, deploy_id: str, by: str = "") -> Deployment | None:
        """Undo a deployment that is not committed, or finish one that is past its decision.

        Needs Triton only when clients may have reached the candidate. Safe to repeat, also when nothing was
        done.

        Args:
            deploy_id: the deployment.
            by: the person who asks for it, for the record; empty when a step has failed.

        Returns:
            The deployment, ROLLED_BACK or COMMITTED; None when nothing is recorded of it.

        Raises:
            LeaseHeld: another deployment of the model is under way.
            Unavailable: the switch has to be put back and a Triton does not answer; repeat it.
            StorageFailed: the repository can't be written; repeat it. Or releases are missing: see Evidence.
        """
        record = self.folder.journal.find(check_deploy_id(deploy_id))
        if record is not None:
            self.folder.journal.sync(deploy_id)
        if record is None or record.finished:
            state = f"is {record.state}" if record else "had not begun"
            log.info("deployment %s %s: nothing to roll back", deploy_id, state)
            self.folder.lease.release(deploy_id)
            return record
        self.take_lease(deploy_id)
        try:
            # The releases name the version that has to serve: without them the rollback would take it away.
            self.folder.evidence.require()
            return steps.rollback(self, record, by)
        except DeployError:
            # Expire the lease at once, so that the next attempt need not wait for it.
            with contextlib.suppress(DeployError):
                self.folder.lease.renew(deploy_id, self.clock(), 0)
            raise

    def publish(self, record: Deployment) -> None:
        """Write the release of a deployment past its decision, if it is not there yet.

        Raises:
            Superseded: another deployment committed its generation; the switch points at that one's version.
            StorageFailed: the repository can't be written; repeat it. Or releases are missing: see Evidence.
        """
        releases = self.folder.releases
        if releases.of_deployment(record.deploy_id, record.generation) is not None:
            return
        self.folder.evidence.require()
        try:
            releases.publish(
                next_release(record, releases.latest(), self.clock(), self.settings.retention.keep_warm)
            )
        except Superseded as error:
            self.last.try_to_restore()
            self.move(record, State.ROLLING_BACK, failure=self.failure("commit", error))
            raise

    def ended(self, record: Deployment) -> Deployment:
        """Give back the lease of a deployment that has ended, and tell its end; return the deployment."""
        self.folder.lease.release(record.deploy_id)
        if record.state is State.ROLLED_BACK:
            kept = f", kept as {record.quarantine}" if record.quarantine else ""
            log.warning(
                "deployment %s was rolled back%s; %s", record.deploy_id, kept, self.last.what_serves()
            )
        else:
            log.info("%s", self.last.what_serves(), extra=TOLD_LIVE)
            for why in record.away.values():
                log.warning("a Triton was passed over, 'triton-deploy reconcile' brings it along: %s", why)
        self.tell(record)
        return record

    def give_up(self, record: Deployment) -> None:
        """Decide that a deployment under way never commits, although its lease is in force.

        Its process finds the fact in the journal when it records its next one, and stops.

        Raises:
            Superseded: its process went on meanwhile.
        """
        failure = self.failure_without_error(record)
        error = f"No Triton answered with the live version while this candidate was loaded or tried. {failure.error}"
        self.move(record, State.ROLLING_BACK, failure=replace(failure, error=error))
        self.folder.lease.renew(record.deploy_id, self.clock(), 0)
