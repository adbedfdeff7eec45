"""How a deployment ends: committed or rolled back, by whoever comes to it, from its record alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..clients.triton import Triton
from ..errors import DeployError, EndedTriton, FlipUnanswered, Superseded
from ..fleet.fleet import Fleet
from ..repository import ModelFolder
from ..rules.deployment import Deployment, Failure, Pinned, State, advance
from ..rules.identity import has_content_of
from ..rules.moments import utc_text
from ..rules.names import check_deploy_id
from ..rules.release import Release, next_release
from ..rules.version_files import Manifest
from ..settings import Settings
from .boot import booted_at

log = logging.getLogger(__name__)

BY_HAND = "rolled_back"
"""Kind of the failure of a deployment that a person rolled back, whether its process was still there or not."""

FLIP_IN_DOUBT = (FlipUnanswered.kind, "crashed", BY_HAND, "unexpected")
"""Failures of a commit after which its flip may be on its way to a Triton without anybody having noted it (``Deployment.unanswered``).
One that arrives when its engine is gone takes the public name down; while the engine is loaded, clients get the version, which was
verified, until the next reconcile."""


@dataclass(frozen=True)
class Deployments:
    """What may be done to any deployment of one model, on any worker.

    Attributes:
        folder: the model's place in the repository.
        serving: gives the model's Tritons; asked only when they are needed.
        settings: lease and warm versions.
        clock: gives the time, aware.
        tell: told of a deployment that has ended, when nothing remains to be done; must not raise (see ``MlflowTags.tell``).
    """

    folder: ModelFolder
    serving: Callable[[], Fleet]
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
                suspect=isinstance(error, EndedTriton) and error.suspect,
            )
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        told = "Somebody stopped it, by Ctrl-C or SIGTERM." if stopped else f"{type(error).__name__}: {error}"
        return Failure(step=step, kind="unexpected", error=told, at_utc=at_utc)

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

    def on_trial(self, deploy_id: str) -> Deployment | None:
        """Return the deployment that has the lease and whose candidate is on trial alone, for somebody who wants it; looks only.

        On trial: a canary was asked for, the candidate is loaded and verified, and nothing of what is live was touched.

        Args:
            deploy_id: who wants it.
        """
        holder, _ = self.folder.lease.last(self.clock())
        record = self.folder.journal.find(holder) if holder and holder != deploy_id else None
        if record is None or record.canary is None or record.state not in (State.VERIFIED, State.TRIED):
            return None
        return record

    def end_trial(self, deploy_id: str, why: str) -> Deployment | None:
        """Roll back the deployment whose candidate is only on trial, because what is live has to be taken back first.

        Its process finds the fact when it looks next. Nothing is known against its model.

        Args:
            deploy_id: the revert that comes first.
            why: a sentence that says whose revert it is.

        Returns:
            The deployment that was rolled back; None when there was none, or when it went on to its commit in this moment.

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

    def rollback(self, deploy_id: str, by: str = "") -> Deployment | None:
        """Undo a deployment that is not committed, or finish one that is past its decision.

        Needs Triton only when clients may have reached the candidate. Safe to repeat, and when nothing had been done.

        Args:
            deploy_id: the deployment.
            by: the person who wants it undone, for its record; empty when it is what follows from a step that failed.

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
            log.info(
                "deployment %s %s: nothing to roll back",
                deploy_id,
                f"is {record.state}" if record else "had not begun",
            )
            self.folder.lease.release(deploy_id)
            return record
        self.take_lease(deploy_id)
        try:
            # What is to serve is read from the releases: without them, what serves would be taken away.
            self.folder.evidence.require()
            return self._end(record, by)
        except DeployError:
            # Who gives up keeps nobody waiting: the next one may try as soon as what failed is back.
            with contextlib.suppress(DeployError):
                self.folder.lease.renew(deploy_id, self.clock(), 0)
            raise

    def give_up(self, record: Deployment) -> None:
        """Decide that a deployment under way will never commit, although its lease is in force; ``rollback`` does the rest.

        The journal keeps its process from going on: that one finds the fact when it records its next.

        Raises:
            Superseded: it went on meanwhile.
        """
        failure = self._crashed(record)
        error = f"No Triton answered with the live version while this candidate was loaded or tried. {failure.error}"
        self.move(record, State.ROLLING_BACK, failure=replace(failure, error=error))
        self.folder.lease.renew(record.deploy_id, self.clock(), 0)

    def finish(self, record: Deployment, *, flipped: bool = False) -> Deployment:
        """Write the release and everything that follows from it, and record the commit; safe to repeat.

        Args:
            record: a deployment past its decision.
            flipped: whether the caller has just made the public name point at it; else it is seen to here.

        Raises:
            Superseded: another deployment committed its generation; the switch points at that one's version.
            StorageFailed: the repository can't be written; repeat it.
        """
        releases = self.folder.releases
        if releases.of_deployment(record.deploy_id, record.generation) is None:
            self.folder.evidence.require()
            try:
                releases.publish(
                    next_release(record, releases.latest(), self.clock(), self.settings.retention.keep_warm)
                )
            except Superseded as error:
                self.try_to_restore()
                self.move(record, State.ROLLING_BACK, failure=self.failure("commit", error))
                raise
        self.project()
        if not flipped:
            self.try_to_restore()
        record = self.move(record, State.COMMITTED, failure=None)
        self._retire(self.folder.engines.versions())
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
        if manifest is None or live.run_id != pinned.run_id or not has_content_of(manifest, pinned):
            # Not what was released: materialize finds out, and refuses.
            return False
        return self.serving().serves(live.active_version)

    def project(self) -> None:
        """Make current.json and the switch on disk say what the last release is; see ``_of_the_last``.

        When the live version's files are gone, the switch stays as it is.

        Raises:
            StorageFailed: the repository can't be written; repeat it.
        """

        def write(live: Release | None) -> None:
            assert live is not None
            self.folder.releases.project(live)
            manifest, serving = self.manifest_of(live), self.serving()
            if manifest is None:
                return
            # First the engine: a Triton that is restarted in between must find all that the switch points at.
            serving.files.complete_engine(manifest)
            serving.files.write_switch(manifest)

        self._of_the_last(write)

    def restore(self, triton: Triton | None = None, spared: Collection[str] = ()) -> None:
        """Make the public name point at the last release, where it does not; see ``_of_the_last``.

        Args:
            triton: on this one; on all of them by default.
            spared: addresses of Tritons that may be away: see Fleet.restore.

        Raises:
            Unavailable: a Triton does not answer; repeat it.

        When the live version's files are gone, see Fleet.restore_without_files.
        """

        def point(live: Release | None) -> None:
            manifest = self.manifest_of(live)
            if live is not None and manifest is None:
                if triton is None:
                    self.serving().restore_without_files(live.active_version, spared)
                else:
                    self.serving().on(triton).restore_without_files(live.active_version)
            elif triton is None:
                self.serving().restore(manifest, spared)
            else:
                self.serving().on(triton).restore(manifest)

        self._of_the_last(point)

    def follow(self) -> None:
        """Bring files and Tritons to the last release, after this process may have taken something of it away.

        Raises:
            Unavailable: a Triton does not answer; repeat it, or leave it to the next reconcile.
            StorageFailed: the repository can't be written.
        """

        def bring(live: Release | None) -> None:
            assert live is not None
            self.project()
            for version in live.loaded_versions:
                manifest = self.folder.versions.usable(version)
                if manifest is not None:
                    self.serving().hold(manifest)
            self.restore()

        self._of_the_last(bring)

    def give_back(self, record: Deployment) -> None:
        """Bring everything to the last release if that one came meanwhile and holds the version that a deployment has treated as its candidate.

        A process that sleeps past its lease may unload what another deployment of the same version has made live since.
        """
        live = self.folder.releases.latest()
        if live and live.generation > record.base_generation and record.version in live.loaded_versions:
            self._try_to_follow()

    def _try_to_follow(self) -> None:
        try:
            self.follow()
        except DeployError as error:
            log.error("a release came meanwhile; the next reconcile brings everything to it: %s", error)

    def _of_the_last(self, act: Callable[[Release | None], None]) -> None:
        """Do something with the last release, and again until it was still the last one afterwards.

        Between its look and its act a process may sleep past its lease, and others may commit: then it has put something back,
        or failed on what is no longer there. Who acts last has then seen the last release.

        Args:
            act: what is done.
        """
        while True:
            live = self.folder.releases.latest()
            try:
                act(live)
            except DeployError:
                if self.folder.releases.latest() == live:
                    raise
                continue
            if self.folder.releases.latest() == live:
                return

    def is_decided(self, deploy_id: str) -> bool:
        """Whether a deployment is past its decision, for somebody who met an error and does not know; also when it can't be read.

        The fact may be there although writing it ended in an error: what clients get is left to who goes on from the record.
        """
        try:
            record = self.folder.journal.find(deploy_id)
        except DeployError:
            return True
        return record is not None and record.state in (State.COMMITTING, State.COMMITTED)

    def is_given_up(self, deploy_id: str) -> bool:
        """Whether somebody rolls a deployment back, or has."""
        record = self.folder.journal.find(deploy_id)
        return record is not None and record.state in (State.ROLLING_BACK, State.ROLLED_BACK)

    def try_to_restore(self) -> None:
        """Make the public name point at the last release at once; what fails is for the rollback or reconcile, which wait for a Triton."""
        try:
            self.restore()
        except DeployError as error:
            log.error(
                "the switch is not back yet, the rollback or the next reconcile will see to it: %s", error
            )

    def manifest_of(self, live: Release | None) -> Manifest | None:
        """Return the manifest of the version that is live; None when none is, or when its files are gone, which is logged."""
        manifest = None
        if live is not None:
            manifest = self.folder.versions.usable(live.active_version)
            if manifest is None:
                log.error(
                    "the files of version %s of %s, which is live, are gone: restore %s from a backup, or deploy another version",
                    live.active_version,
                    self.folder.model,
                    self.folder.versions.path(live.active_version),
                )
        return manifest

    def what_serves(self) -> str:
        """Return a sentence on what is live, for messages."""
        live = self.folder.releases.latest()
        if live is None:
            return f"no version of {self.folder.model} is live."
        return f"version {live.active_version} of {self.folder.model} is live (generation {live.generation})."

    @property
    def _lease_s(self) -> float:
        # A load can't renew the lease while it waits for Triton.
        return self.settings.lease_s + self.settings.triton.load_timeout_s

    def _end(self, record: Deployment, by: str) -> Deployment:
        if record.state is State.COMMITTING:
            log.info("deployment %s was past its decision: finishing the commit", record.deploy_id)
            return self.finish(record)
        if record.state is not State.ROLLING_BACK:
            record = self.move(
                record, State.ROLLING_BACK, failure=record.failure or self._crashed(record, by)
            )
        record = self._undo(record)
        self.folder.lease.release(record.deploy_id)
        kept = f", kept as {record.quarantine}" if record.quarantine else ""
        log.warning("deployment %s was rolled back%s; %s", record.deploy_id, kept, self.what_serves())
        self.tell(record)
        return record

    def _crashed(self, record: Deployment, by: str = "") -> Failure:
        """Return why a deployment ended whose process does not say: the Triton that met the candidate first is asked.

        Not where this machine was started since: then the power was away, or somebody restarted it, with all that ran on it.
        """
        booted = booted_at()
        given = [url for url, at in record.given.items() if not booted or datetime.fromisoformat(at) > booted]
        lost = self.serving().without_memory_of(record.version, given) if given else ()
        found = Failure(
            step=record.due_step or "",
            kind=BY_HAND if by else "crashed",
            error=f"{by} rolled it back."
            if by
            else "The step ended without saying why: its process was killed, timed out or marked failed, or nobody went on.",
            at_utc=utc_text(self.clock()),
        )
        if not lost:
            return found
        return replace(
            found,
            error=f"{found.error} Triton at {lost[0]} was started anew since it got the candidate: the model may have ended it, and so may "
            f"have somebody by hand. If it was somebody, take the model again with 'triton-deploy deploy {self.folder.model} --alias ALIAS --force'.",
            blames_artifact=True,
            suspect=True,
        )

    def _undo(self, record: Deployment) -> Deployment:
        if State.SWITCHING in record.times_utc:
            self.restore(spared=record.ended)
        assert record.failure is not None
        if record.version in self.folder.engines.versions():
            in_doubt = record.unanswered or record.failure.kind in FLIP_IN_DOUBT
            if self.folder.releases.latest() and State.SWITCHING in record.times_utc and in_doubt:
                log.info("version %s is not taken out before the next reconcile or deploy", record.version)
            else:
                self._retire([record.version])
        at = datetime.fromisoformat(record.times_utc[State.ROLLING_BACK])
        kept = self.folder.versions.quarantine(record, record.failure, at)
        return self.move(record, State.ROLLED_BACK, quarantine=kept.name if kept else "")

    def _retire(self, versions: Sequence[int]) -> None:
        """Take those of the versions out that the last release does not hold; what one came to hold meanwhile comes back."""
        before = self.folder.releases.latest()
        kept = before.loaded_versions if before else ()
        ours = self.folder.ownership.knows
        self.serving().retire([version for version in versions if version not in kept and ours(version)])
        if self.folder.releases.latest() != before:
            self._try_to_follow()
