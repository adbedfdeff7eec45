"""How a deployment ends: committed or rolled back, by whoever comes to it, from its record alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .errors import DeployError, FlipUnanswered, Superseded
from .names import check_deploy_id
from .records import Deployment, Failure, Pinned, Release, State, advance, next_release, utc_text
from .repository import Manifest, ModelFolder
from .serving import Serving
from .settings import Settings

log = logging.getLogger(__name__)

FLIP_IN_DOUBT = (FlipUnanswered.kind, "crashed", "unexpected")
"""Failures of a commit after which its flip may still be on its way to a Triton. One that arrives when its engine is gone takes the
public name down; while the engine is loaded, clients get the version, which was verified, until the next reconcile."""


@dataclass(frozen=True)
class Settlement:
    """What may be done to any deployment of one model, on any worker.

    Attributes:
        folder: the model's place in the repository.
        serving: gives the model's Tritons; asked only when they are needed.
        settings: lease and warm versions.
        clock: gives the time, aware.
        tell: told of a deployment that has ended, when nothing remains to be done; must not raise (see feedback.py).
    """

    folder: ModelFolder
    serving: Callable[[], Serving]
    settings: Settings
    clock: Callable[[], datetime]
    tell: Callable[[Deployment], None] = lambda record: None

    def take_lease(self, deploy_id: str, duration_s: float | None = None) -> None:
        """Take or renew the lease for a deployment; a silent one that has it is settled first.

        Args:
            deploy_id: who wants it.
            duration_s: how long it lasts without a renewal, seconds; by default as long as a deploy's.

        Raises:
            LeaseHeld: another deployment has it.
            DeployError: the one that has it can't be settled: see rollback.
        """
        self.settle_abandoned(deploy_id)
        self.folder.lease.acquire(deploy_id, self.clock(), duration_s or self._lease_s)

    def keep_lease(self, deploy_id: str) -> None:
        """Renew the lease that a deployment has; raises Superseded when it lost it."""
        self.folder.lease.renew(deploy_id, self.clock(), self._lease_s)

    def move(self, record: Deployment, to: State, **facts: Any) -> Deployment:
        """Add a fact to a deployment; raises Superseded when somebody else did, IllegalTransition off the table."""
        return self.folder.journal.append(advance(record, to, self.clock(), **facts), record)

    def failure(self, step: str, error: BaseException) -> Failure:
        """Return what a record keeps of an error."""
        at_utc = utc_text(self.clock())
        if isinstance(error, DeployError):
            return Failure(
                step=step,
                kind=error.kind,
                error=str(error),
                at_utc=at_utc,
                blames_artifact=error.blames_artifact,
            )
        return Failure(step=step, kind="unexpected", error=f"{type(error).__name__}: {error}", at_utc=at_utc)

    def abandoned(self, deploy_id: str) -> str | None:
        """Return the deployment that has the lease and went silent, for somebody who wants it; looks only.

        Args:
            deploy_id: who wants it.

        Raises:
            LeaseHeld: it is under way.
        """
        holder, in_force = self.folder.lease.last(self.clock())
        if holder is None or holder == deploy_id:
            return None
        record = self.folder.journal.find(holder)
        if in_force and (record is None or not record.finished):
            raise self.folder.lease.refusal()
        return holder

    def settle_abandoned(self, deploy_id: str) -> str | None:
        """Finish or undo the deploy that has the lease and went silent, for somebody who wants the lease.

        Args:
            deploy_id: who wants it.

        Returns:
            The deployment that was settled, or None when there was nothing to settle.

        Raises:
            LeaseHeld: it is under way.
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

    def rollback(self, deploy_id: str) -> Deployment | None:
        """Undo a deployment that is not committed, or finish one that is past its decision.

        Needs Triton only when clients may have reached the candidate. Safe to repeat, and when nothing had been done.

        Returns:
            The deployment, ROLLED_BACK or COMMITTED; None when nothing is recorded of it.

        Raises:
            LeaseHeld: another deployment of the model is under way.
            Unavailable: the switch has to be put back and a Triton does not answer; repeat it.
            StorageFailed: the repository can't be written; repeat it.
        """
        record = self.folder.journal.find(check_deploy_id(deploy_id))
        if record is not None:
            self.folder.journal.sync(deploy_id)
        if record is None or record.finished:
            log.info(
                "deployment %s %s: nothing to roll back",
                deploy_id,
                f"is {record.state}" if record else "had not begun",
            )
            self.folder.lease.release(deploy_id)
            return record
        self.take_lease(deploy_id)
        try:
            return self._end(record)
        except DeployError:
            # Who gives up keeps nobody waiting: the next one may try as soon as what failed is back.
            with contextlib.suppress(DeployError):
                self.folder.lease.renew(deploy_id, self.clock(), 0)
            raise

    def finish(self, record: Deployment) -> Deployment:
        """Write the release and everything that follows from it, and record the commit; safe to repeat.

        Args:
            record: a deployment past its decision.

        Raises:
            Superseded: another deployment committed its generation; the switch points at that one's version.
            StorageFailed: the repository can't be written; repeat it.
        """
        releases = self.folder.releases
        if releases.of_deployment(record.deploy_id, record.generation) is None:
            try:
                releases.publish(
                    next_release(record, releases.latest(), self.clock(), self.settings.keep_warm)
                )
            except Superseded as error:
                self.undo_flip()
                self.move(record, State.ROLLING_BACK, failure=self.failure("commit", error))
                raise
        # The last release, which may be a later one by now: current.json must not go back.
        live = releases.latest()
        assert live is not None
        releases.project(live)
        serving = self.serving()
        serving.write_switch(self.folder.versions.need(live.active_version))
        record = self.move(record, State.COMMITTED, failure=None)
        serving.retire([v for v in self.folder.versions.engines() if v not in live.loaded_versions])
        self.folder.lease.release(record.deploy_id)
        log.info("%s", self.what_serves())
        for why in record.away.values():
            log.warning("a Triton was passed over, 'triton-deploy reconcile' brings it along: %s", why)
        self.tell(record)
        return record

    def is_live(self, live: Release, pinned: Pinned) -> bool:
        """Whether every Triton serves exactly what an alias means."""
        if live.active_version != pinned.version:
            return False
        manifest = self.folder.versions.manifest(live.active_version)
        if manifest is None or manifest.fingerprint != pinned.fingerprint:
            # Not the files that were released: materialize finds out, and refuses.
            return False
        return self.serving().serves(live.active_version)

    def undo_flip(self) -> None:
        """Put the switch back at once; the rollback does it again, and waits for a Triton that does not answer."""
        try:
            self.serving().restore(self.manifest_of(self.folder.releases.latest()))
        except DeployError as error:
            log.error("the switch is not back yet, the rollback will see to it: %s", error)

    def manifest_of(self, live: Release | None) -> Manifest | None:
        """Return the manifest of the version that is live, or None when none is."""
        return self.folder.versions.need(live.active_version) if live else None

    def what_serves(self) -> str:
        """Return a sentence on what is live, for messages."""
        live = self.folder.releases.latest()
        if live is None:
            return f"no version of {self.folder.model} is live."
        return f"version {live.active_version} of {self.folder.model} is live (generation {live.generation})."

    @property
    def _lease_s(self) -> float:
        # A load can't renew the lease while it waits for Triton.
        return self.settings.lease_s + self.settings.load_timeout_s

    def _end(self, record: Deployment) -> Deployment:
        if record.state is State.COMMITTING:
            log.info("deployment %s was past its decision: finishing the commit", record.deploy_id)
            return self.finish(record)
        if record.state is not State.ROLLING_BACK:
            crashed = Failure(
                step=record.due_step or "",
                kind="crashed",
                error="The step ended without saying why: its process was killed, timed out or marked failed, or nobody went on.",
                at_utc=utc_text(self.clock()),
            )
            record = self.move(record, State.ROLLING_BACK, failure=record.failure or crashed)
        record = self._undo(record)
        self.folder.lease.release(record.deploy_id)
        kept = f", kept as {record.quarantine}" if record.quarantine else ""
        log.warning("deployment %s was rolled back%s; %s", record.deploy_id, kept, self.what_serves())
        self.tell(record)
        return record

    def _undo(self, record: Deployment) -> Deployment:
        live = self.folder.releases.latest()
        if State.SWITCHING in record.times_utc:
            self.serving().restore(self.manifest_of(live))
        assert record.failure is not None
        loaded = live.loaded_versions if live else ()
        if record.version in self.folder.versions.engines() and record.version not in loaded:
            if live and State.SWITCHING in record.times_utc and record.failure.kind in FLIP_IN_DOUBT:
                log.info("version %s stays loaded until the next reconcile or deploy", record.version)
            else:
                self.serving().retire([record.version])
        at = datetime.fromisoformat(record.times_utc[State.ROLLING_BACK])
        kept = self.folder.versions.quarantine(record, record.failure, at)
        return self.move(record, State.ROLLED_BACK, quarantine=kept.name if kept else "")
