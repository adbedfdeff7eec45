"""The steps and the way back, in the order in which they happen.

Each step reads the deployment's record, does its part, and records the fact; so a step may run on any worker, may be
repeated, and continues where the record says. Nothing passes between steps but the model's name and the deploy id.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..clients.artifacts import ArtifactStore, store_for
from ..clients.registry import MlflowRegistry, Registry, wait_for_alias
from ..clients.triton import Triton, staging_of, tritons_of
from ..errors import DeployError, IllegalTransition, Misconfigured, Superseded
from ..fleet.fleet import Fleet
from ..fleet.foreign import refuse_foreign
from ..fleet.staging import Staging
from ..report.mlflow_tags import MlflowTags
from ..repository import ModelFolder
from ..repository.verdicts import refuse_bad
from ..rules.canary_evidence import Counter, Judge, no_counts, nobody
from ..rules.deployment import Deployment, Pinned, State
from ..rules.moments import utc_text
from ..rules.names import check_alias, check_deploy_id, check_model
from ..rules.release import Release
from ..rules.version_files import Manifest
from ..settings import Settings
from .canary_watch import CanaryWatch
from .deployments import Deployments
from .disk_space import require_room
from .dry_run import Plan, plan_deploy, plan_revert, plan_rollback
from .integrity import check_candidate
from .materialize import Materializer, refuse_quarantined
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
from .step import RunningStep

log = logging.getLogger(__name__)

StepCall = Callable[[str, str], Deployment]
"""A step: takes the model's name and the deploy id."""


STOPPED = "Whoever stopped the deploy (Ctrl-C or SIGTERM)"
"""Who rolled a deployment back whose process was asked to end."""


class Deployer:
    """Takes what an alias names to what Triton serves, or leaves everything as it was.

    Args:
        settings: see ``Settings``.
        registry: the model registry; MLflow by default.
        stores: gives the artifact store of a location; by default as its scheme says.
        tritons: the servers; by default those of the settings.
        clock: gives the time, aware.
        report: told bytes done and bytes in all during a transfer.
        feedback: tells the registry how a deployment ended; MLflow by default.
        judge: says how a candidate does on the clients' requests; Prometheus by default.
        counter: gives what the gateways counted themselves of a candidate; those of the settings by default.
        sleep: waits so many seconds between two looks at a canary.
        staging: the staging Triton; by default that of the settings, if they name one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry | None = None,
        stores: Callable[[str], ArtifactStore] | None = None,
        tritons: Sequence[Triton] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        report: Callable[[int, int], None] = lambda done, total: None,
        feedback: MlflowTags | None = None,
        judge: Judge | None = None,
        counter: Counter | None = None,
        sleep: Callable[[float], None] = time.sleep,
        staging: Triton | None = None,
    ) -> None:
        self._settings = settings
        self._staging = staging
        self._judge = judge
        self._counter = counter
        self._sleep = sleep
        self._feedback = feedback or MlflowTags(settings)
        self._registry = registry
        # Two steps of a deploy ask for the same one; a client of S3 takes a while to make.
        self._stores = stores or functools.lru_cache(maxsize=1)(lambda uri: store_for(uri, settings))
        self._tritons = tritons
        self._clock = clock
        self._report = report

    def deploy(self, request: DeployRequest) -> Deployment:
        """Run all steps; when one fails, roll back and raise what it raised (a failed snapshot leaves nothing).

        Returns:
            The deployment: COMMITTED, or UNCHANGED when the version was live already.
        """
        self.snapshot(request)
        steps = (self.materialize, self.load, self.ready, self.smoke, self.canary, self.commit)
        return self._through(steps, request.model, request.deploy_id)

    def revert(self, request: RevertRequest, earlier_tries: Sequence[str] = ()) -> Deployment:
        """Make a version live again that was live before: a new release, checked like any other, without MLflow.

        A deployment whose candidate is only on trial, in a canary, is rolled back first: what is live and bad can't wait for it.
        A version that is still warm is not loaded again. The files of another one are compared with its release first, unless the
        request says ``unverified``. What its inputs and outputs are is not compared with the live version's, because a revert is for when that one is bad.

        Args:
            request: what somebody asks for.
            earlier_tries: deploy ids of earlier tries of the same revert, which may have been killed. One that committed
                has done what is asked for: to go back once more would bring the bad version back. One that did not end is
                undone first, so that its lease keeps nobody waiting.

        Returns:
            The deployment: COMMITTED, or UNCHANGED when the version is live.

        Raises:
            InvalidInput: the files are not to be looked at, and no reason is given.
            NotFound: there is no earlier release, or the version was never live, or its files are gone.
            Damaged: its files are not those that were released.
            Superseded: another release is live than the one that is to be taken back.
            LeaseHeld: a deploy of the model is under way, and more than a canary.
            DeployError: as for the steps of a deploy; what was live stays live.
        """
        deployments = self._deployments(request.model)
        for earlier in earlier_tries:
            ended = deployments.rollback(earlier)
            if ended is not None and ended.state is not State.ROLLED_BACK:
                log.info("an earlier try, %s, is %s: nothing is left to do", earlier, ended.state)
                return ended
        known = deployments.folder.journal.find(check_deploy_id(request.deploy_id))
        if known is None:
            deployments.folder.versions.refuse_traps()
            deployments.folder.evidence.require()
            live = deployments.folder.releases.latest()
            # What can't be done, or is done already, ends nobody's trial.
            if not revert_record(request, live, deployments.folder, self._clock()).finished:
                deployments.end_trial(request.deploy_id, comes_first(request))
            deployments.settle_abandoned(request.deploy_id)
            known = self._begin(
                deployments,
                request.deploy_id,
                lambda live: revert_record(request, live, deployments.folder, self._clock()),
            )
        steps = (self.load, self.ready, self.smoke, self.commit)
        return self._through(steps, request.model, still_wanted(known).deploy_id)

    def snapshot(self, request: DeployRequest) -> Deployment:
        """Settle what an earlier deploy left, resolve the alias once, take the lease, and record all of it.

        Raises:
            InvalidInput: a name that can't be.
            Misconfigured: a canary is asked for, and nobody would judge it.
            Foreign: somebody else's model or folder has the name.
            StorageFailed: releases are missing: see Evidence. Or Triton can't bear what lies there: see Versions.traps.
            LeaseHeld: another deploy of the model is under way.
            AliasNotFound: the alias was not set in time.
            Quarantined: this artifact failed before.
            TakenBack: a bake found it bad.
            AnotherVersion: the repository has another version of the same number.
            Superseded: a deployment of this id was rolled back, had ended before, or is of something else.
            DeployError: MLflow or the artifact store refuse or do not answer.
        """
        check_deploy_id(request.deploy_id)
        check_alias(request.alias)
        self._refuse_unmeasured(request)
        deployments = self._deployments(request.model)
        folder = deployments.folder
        known = folder.journal.find(request.deploy_id)
        if known is not None:
            return taken_up(request, known)
        folder.versions.refuse_traps()
        refuse_foreign(folder, deployments.serving, self._settings.repository_root)
        deployments.settle_abandoned(request.deploy_id)
        found = wait_for_alias(self._the_registry(), request.model, request.alias, self._settings, log.info)
        pinned = pinned_version(request, found, self._stores, folder)
        folder.ownership.refuse_version(pinned.version)
        if not request.force:
            refuse_quarantined(folder.versions, fingerprint=pinned.fingerprint)
            refuse_bad(folder, pinned)
        record = self._begin(
            deployments,
            request.deploy_id,
            lambda live: self._first_record(deployments, request, pinned, live),
        )
        log.info(
            "alias %s of %s is version %s, run %s",
            pinned.alias,
            request.model,
            pinned.version,
            pinned.run_id or "unknown",
        )
        return record

    def materialize(self, model: str, deploy_id: str) -> Deployment:
        """Bring the artifact into the repository, checked and durable, under its version's name.

        Raises:
            TakenBack: a bake found these files bad.
            DeployError: see materialize.Materializer.run.
        """
        with self._step("materialize", State.MATERIALIZED, model, deploy_id) as step:
            if step.due:

                def report(done: int, total: int) -> None:
                    step.keep_lease_in_time()
                    self._report(done, total)

                def store() -> ArtifactStore:
                    return self._stores(step.record.pinned.artifact_uri)

                def released() -> bool:
                    step.keep_lease()
                    return step.folder.releases.releases_version(step.record.version)

                manifest = Materializer(self._settings, step.folder.versions, store).run(
                    step.record, released, report
                )
                if not step.record.force:
                    # Its digest is known only now, where training recorded none.
                    refuse_bad(step.folder, manifest)
                step.reached(
                    digest=manifest.digest,
                    manifest_digest=step.folder.versions.manifest_digest(manifest.version),
                )
        return step.record

    def load(self, model: str, deploy_id: str) -> Deployment:
        """Try the candidate in the staging Triton, where there is one, then load it into every Triton beside the live version.

        Raises:
            Damaged: its files are not those that were deployed.
            EndedTriton: the candidate ended a Triton.
            ArtifactRejected, VerificationFailed: a Triton can't load it, or the staging Triton can't serve it.
            NoRoom: the Tritons' memory would not hold it.
            Unavailable: a Triton did not load it in time, or does not answer.
        """
        with self._step("load", State.LOADED, model, deploy_id) as step:
            if step.due:
                step.folder.versions.refuse_traps()
                manifest = step.folder.versions.require(step.record.version)
                require_room(self._settings, manifest.version, step.folder)
                check_candidate(step, manifest)
                self._try_in_staging(step, manifest)
                try:
                    step.serving.load_candidate(
                        manifest,
                        deploy_id,
                        fresh=manifest.deploy_id == deploy_id,
                        first=lambda url: step.note(given={url: utc_text(self._clock())}),
                        then=step.keep_lease,
                    )
                    step.reached()
                finally:
                    step.deployments.give_back(step.record)
        return step.record

    def ready(self, model: str, deploy_id: str) -> Deployment:
        """Wait until every Triton has exactly this version ready.

        Raises:
            NotFound: one has not, in time.
            Unavailable: one does not answer.
        """
        with self._step("ready", State.READY, model, deploy_id) as step:
            if step.due:
                step.serving.wait_ready(step.record.version)
                step.reached()
        return step.record

    def smoke(self, model: str, deploy_id: str) -> Deployment:
        """Compare the candidate's answers with the expected ones, on every Triton.

        Raises:
            VerificationFailed: wrong, non-finite or late answers.
            DeployError: see Fleet.smoke.
        """
        with self._step("smoke", State.VERIFIED, model, deploy_id) as step:
            if step.due:
                measured = step.serving.smoke(step.record.version)
                step.reached(smoke=measured)
                log.info("version %s answers as expected: %s", step.record.version, measured)
        return step.record

    def canary(self, model: str, deploy_id: str) -> Deployment:
        """Give the candidate a growing share of the clients' requests, and watch it until the last step has ended.

        Raises:
            VerificationFailed, DeployError: see look_at_canary.
        """
        while (pause_s := self.look_at_canary(model, deploy_id)) is not None:
            self._sleep(pause_s)
        return self._deployments(model).folder.journal.get(deploy_id)

    def look_at_canary(self, model: str, deploy_id: str) -> float | None:
        """Do what is due now of a canary: begin a step, judge it, or end the canary.

        Returns:
            Seconds until the next look is due, or None when nothing is left to watch: the canary has ended well, or
            none was asked for, or nothing is live with which it could share the clients.

        Raises:
            VerificationFailed: the candidate does worse, or answers otherwise; its share has ended.
            CanaryUndecided: nobody could judge it, and no person decided in time; it is not blamed.
            CanaryAborted: a person ended it.
            Misconfigured, AccessDenied: it can never be judged, whatever time passes.
            SchemaChanged: clients of the live version could not use it.
            Superseded: somebody else committed, or rolled this deployment back.
        """
        record = still_wanted(self._deployments(model).folder.journal.get(deploy_id))
        if record.canary is None or record.state is State.UNCHANGED:
            return None
        with self._step("canary", State.TRIED, model, deploy_id) as step:
            if not step.due:
                return None
            watch = CanaryWatch(step, self._the_judge(), self._settings, self._the_counter())
            return watch.look(self._clock())

    def commit(self, model: str, deploy_id: str) -> Deployment:
        """Flip the switch, check through the public name, then write the release: from then on it is live.

        The intent is recorded before clients can reach the candidate, the decision when it answered them rightly. A
        commit that fails in between is undone at once; after the decision it is finished, by whoever comes next.

        Raises:
            Superseded: somebody else committed, or rolled this deployment back.
            DeployError: the flip or the check failed; the switch points at the live version again.
        """
        with self._step("commit", State.COMMITTED, model, deploy_id) as step:
            if not step.due:
                return step.record
            flipped = step.record.state is not State.COMMITTING
            if flipped:
                step.refuse_outdated()
                if step.record.state in (State.VERIFIED, State.TRIED):
                    step.reached(State.SWITCHING)
                serving = step.serving
                step.unanswered, step.ended = serving.unanswered, serving.ended
                try:
                    manifest = step.folder.versions.require(step.record.version)
                    away = serving.switch_to(manifest, self._settle_s(step))
                    step.keep_lease()
                    # Before the decision, which may be finished by code that does not know an engine that is not complete.
                    serving.files.complete_engine(manifest)
                    unanswered = dict(serving.unanswered)
                    step.reached(State.COMMITTING, away=dict(away), unanswered=unanswered)
                except BaseException:
                    if not step.deployments.is_decided(deploy_id):
                        step.deployments.try_to_restore()
                    raise
            step.record = step.deployments.finish(step.record, flipped=flipped)
        return step.record

    def rollback(self, model: str, deploy_id: str, by: str = "") -> Deployment | None:
        """Undo a deployment that is not committed, or finish one that is past its decision: see Deployments.rollback."""
        return self._deployments(model).rollback(deploy_id, by)

    def plan_deploy(self, request: DeployRequest) -> Plan:
        """Return what a deploy would do, and change nothing: see dry_run.plan_deploy."""
        check_deploy_id(request.deploy_id)
        check_alias(request.alias)
        return plan_deploy(
            request,
            self._deployments(request.model),
            self._settings,
            self._the_registry,
            self._stores,
            log.info,
            self._refuse_unmeasured,
        )

    def plan_revert(self, request: RevertRequest) -> Plan:
        """Return what a revert would do, and change nothing: see dry_run.plan_revert."""
        check_deploy_id(request.deploy_id)
        return plan_revert(request, self._deployments(request.model))

    def plan_rollback(self, model: str, deploy_id: str) -> Plan:
        """Return what a rollback would do, and change nothing: see dry_run.plan_rollback."""
        return plan_rollback(check_deploy_id(deploy_id), self._deployments(model))

    def what_serves(self, model: str) -> str:
        """Return a sentence on what is live, for messages."""
        return self._deployments(model).what_serves()

    # What the steps are made of

    def _settle_s(self, step: RunningStep) -> float:
        """Return how long clients meet a version on one Triton alone, seconds: none for one that they have met before."""
        record, releases = step.record, step.folder.releases
        met = record.canary is not None or releases.releases_version(record.version)
        return 0.0 if met or releases.latest() is None else self._settings.triton.settle_s

    def _try_in_staging(self, step: RunningStep, manifest: Manifest) -> None:
        """Try a candidate that clients have not had before, or not lately: a warm version is loaded, and is asked of nobody."""
        if self._staging is None:
            self._staging = staging_of(self._settings)
        live = step.folder.releases.latest()
        if self._staging is None or (live and manifest.version in live.loaded_versions):
            return
        # What was live before may be needed at once, because what is live now is bad.
        released = manifest.deploy_id != step.record.deploy_id
        settings = (
            replace(self._settings, triton=replace(self._settings.triton, staging="optional"))
            if released
            else self._settings
        )
        Staging(self._staging, step.folder, settings, self._clock).try_out(
            manifest,
            step.record.deploy_id,
            step.keep_lease,
            lambda facts: step.note(staging=facts),
            step.record.staging,
        )

    def _the_registry(self) -> Registry:
        return self._registry or MlflowRegistry(self._settings)

    def _the_judge(self) -> Judge:
        if self._judge is None:
            from ..watch.canary_judge import CanaryJudge

            self._judge = CanaryJudge.of(self._settings) if self._settings.bake.prometheus_url else nobody
        return self._judge

    def _the_counter(self) -> Counter:
        if self._counter is None:
            self._counter = no_counts
            if self._settings.canary.gateway_urls:
                from ..clients.gateway_counts import GatewayCounts

                self._counter = GatewayCounts.of(self._settings)
        return self._counter

    def _refuse_unmeasured(self, request: DeployRequest) -> None:
        """Raise Misconfigured for a canary that nobody would judge."""
        if request.canary is not None and self._judge is None and not self._settings.bake.prometheus_url:
            raise Misconfigured(
                "A canary or shadow is judged by what Prometheus saw, and TRITON_DEPLOY_PROMETHEUS_URL is not set: nothing was done.",
                hint="Set it for whoever deploys (Airflow's workers and its triggerer), or deploy without --canary and --shadow-percent.",
            )

    def _deployments(self, model: str) -> Deployments:
        folder = ModelFolder.at(self._settings.repository_root, check_model(model))
        return Deployments(
            folder,
            lambda: self._serving(folder),
            self._settings,
            self._clock,
            lambda record: self._feedback.tell(folder, record),
        )

    def _serving(self, folder: ModelFolder) -> Fleet:
        if self._tritons is None:
            self._tritons = tritons_of(self._settings)
        return Fleet(folder, self._tritons, self._settings)

    def _through(self, steps: Sequence[StepCall], model: str, deploy_id: str) -> Deployment:
        try:
            for step in steps:
                record = step(model, deploy_id)
            return record
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            try:
                self.rollback(model, deploy_id, STOPPED if stopped else "")
            except DeployError as left:
                # A revert that came first may have rolled it back in this moment.
                if not self._has_ended(model, deploy_id):
                    log.error(
                        "the rollback did not complete: %s Repeat it then: triton-deploy rollback %s --deploy-id %s",
                        left,
                        model,
                        deploy_id,
                    )
            raise

    def _has_ended(self, model: str, deploy_id: str) -> bool:
        """Whether a deployment has ended, by whoever did it; not when that can't be read."""
        with contextlib.suppress(DeployError):
            record = self._deployments(model).folder.journal.find(deploy_id)
            return record is not None and record.finished
        return False

    def _begin(
        self, deployments: Deployments, deploy_id: str, make: Callable[[Release | None], Deployment]
    ) -> Deployment:
        """Take the lease and record what is to be done on top of what is live; on failure leave nothing."""
        deployments.take_lease(deploy_id)
        try:
            record = deployments.folder.journal.append(make(deployments.folder.releases.latest()), None)
        except BaseException:
            deployments.folder.lease.release(deploy_id)
            raise
        if record.finished:
            deployments.folder.lease.release(deploy_id)
            log.info("version %s is live already: nothing to do", record.version)
        return record

    def _first_record(
        self, deployments: Deployments, request: DeployRequest, pinned: Pinned, live: Release | None
    ) -> Deployment:
        refuse_taken_number(deployments.folder, pinned)
        unchanged = live is not None and deployments.is_live(live, pinned)
        return deploy_record(request, pinned, live, unchanged, self._clock())

    @contextlib.contextmanager
    def _step(self, name: str, goal: State, model: str, deploy_id: str) -> Iterator[RunningStep]:
        """Run one step: read the record, renew the lease, record why it failed if it does."""
        deployments = self._deployments(model)
        step = RunningStep(deployments, still_wanted(deployments.folder.journal.get(deploy_id)), goal)
        if not step.due:
            yield step
            return
        if step.record.due_step != name:
            raise IllegalTransition(
                f"Deployment {deploy_id} is {step.record.state}: {step.record.due_step} is due, not {name}.",
                hint="Run the steps in order.",
            )
        step.keep_lease()
        deployments.folder.journal.sync(deploy_id)
        started = time.perf_counter()
        try:
            yield step
        except BaseException as error:
            superseded = step.failed(name, error)
            if (
                superseded is not None
                and isinstance(error, DeployError)
                and not isinstance(error, Superseded)
            ):
                raise superseded from error
            raise
        if not step.due:
            took_s = time.perf_counter() - started
            log.info("%s of %s version %s took %.2f s", name, model, step.record.version, took_s)
