"""The public face of a deploy: ``Deployer`` runs the steps, and rolls back when one fails.

What each step does is in ``steps``, in order. A step may run on any worker, may be repeated, and continues
where the record says. Nothing passes between steps but the model's name and the deploy id.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from ..clients.artifacts import ArtifactStore
from ..clients.registry import Registry
from ..clients.triton import Triton
from ..errors import DeployError, IllegalTransition, Superseded
from ..model.signature import Signer, signature_of
from ..report.mlflow_tags import MlflowTags
from ..rules.canary_evidence import Counter, Judge
from ..rules.deployment import Deployment, State
from ..settings import Settings
from . import steps
from .canary_watch import CanaryWatch
from .collaborators import Collaborators
from .decide import ActingHands, decide_revert
from .dry_run import Plan, plan_deploy, plan_revert, plan_rollback
from .request import DeployRequest, RevertRequest, still_wanted
from .step import TOLD_LIVE, RunningStep

log = logging.getLogger(__name__)

StepCall = Callable[[str, str], Deployment]
"""A step: takes the model's name and the deploy id."""

STOPPED = "Whoever stopped the deploy (Ctrl-C or SIGTERM)"
"""Who rolled back a deployment whose process was asked to end."""


class Deployer:
    """Makes the version that an alias names the live one, or leaves everything as it was.

    Args:
        settings: see ``Settings``.
        registry: the model registry; MLflow by default.
        stores: gives the artifact store of a location; by default by the location's scheme.
        tritons: the servers; by default those of the settings.
        clock: gives the time, aware.
        report: called with bytes done and bytes in all during a transfer.
        feedback: tells the registry how a deployment ended; MLflow by default.
        judge: judges a candidate by the clients' requests; Prometheus by default.
        counter: gives the gateways' own counts of a candidate; by default those of the gateways in the
            settings.
        sleep: waits for seconds, between two looks at a canary.
        staging: the staging Triton; by default that of the settings, if they name one.
        sign: opens a model without its weights, and returns its inputs and outputs; by default ONNX Runtime
            in a process of its own.
        on_step: called with a step's name when it begins, and again with its duration, seconds, when it is
            done.
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
        sign: Signer = signature_of,
        on_step: Callable[[str, float | None], None] = lambda name, took_s: None,
    ) -> None:
        self._on_step = on_step
        self._via = Collaborators(
            settings,
            registry=registry,
            stores=stores,
            tritons=tritons,
            clock=clock,
            report=report,
            feedback=feedback,
            judge=judge,
            counter=counter,
            sleep=sleep,
            staging=staging,
            sign=sign,
        )

    def deploy(self, request: DeployRequest) -> Deployment:
        """Run all steps; when one fails, roll back and raise its error (a failed snapshot leaves nothing).

        Returns:
            The deployment: COMMITTED, or UNCHANGED when the version was live already.
        """
        self.snapshot(request)
        steps = (self.materialize, self.load, self.ready, self.smoke, self.canary, self.commit)
        return self._through(steps, request.model, request.deploy_id)

    def revert(self, request: RevertRequest, earlier_tries: Sequence[str] = ()) -> Deployment:
        """Make an earlier live version live again: a new release, checked like any other, without MLflow.

        A deployment whose candidate is only on trial in a canary is rolled back first: a bad live version
        can't wait for it. A warm version is not loaded again. The files of any other version are compared
        with its release first, unless the request says ``unverified``. Its inputs and outputs are not
        compared with the live version's: a revert is for a bad live version.

        Args:
            request: the request.
            earlier_tries: deploy ids of earlier tries of the same revert, which may have been killed. A try
                that committed has done it: to go back once more would bring the bad version back. A try
                that did not end is undone first, so that its lease blocks no deployment.

        Returns:
            The deployment: COMMITTED, or UNCHANGED when the version is live.

        Raises:
            InvalidInput: the request forbids the comparison of files, and gives no reason.
            NotFound: there is no earlier release, or the version was never live, or its files are gone.
            Damaged: its files are not those that were released.
            Superseded: another release is live than the one that is to be taken back.
            LeaseHeld: a deploy of the model is under way, and more than a canary.
            DeployError: as for the steps of a deploy; the live version stays live.
        """
        deployments = self._via.deployments(request.model)
        for earlier in earlier_tries:
            ended = deployments.rollback(earlier)
            if ended is not None and ended.state is not State.ROLLED_BACK:
                log.info("an earlier try, %s, is %s: nothing is left to do", earlier, ended.state)
                return ended
        begun = decide_revert(request, deployments, ActingHands(deployments)).begun
        _say_if_live_already(begun)
        return self._through((self.load, self.ready, self.smoke, self.commit), begun.model, begun.deploy_id)

    def snapshot(self, request: DeployRequest) -> Deployment:
        """Settle an abandoned deploy, resolve the alias once, take the lease, and record all of it.

        Raises:
            InvalidInput: a name that can't be.
            Misconfigured: a canary is asked for, and nothing would measure it.
            Foreign: a model or folder of another owner has the name.
            StorageFailed: releases are missing: see Evidence. Or Triton can't bear a file in the folder:
                see Traps.
            LeaseHeld: another deployment of the model is under way.
            AliasNotFound: the alias was not set in time.
            Quarantined: this artifact failed before.
            TakenBack: a bake found it bad.
            AnotherVersion: the repository has another version of the same number.
            Superseded: a deployment of this id was rolled back, had ended before, or is of another request.
            DeployError: MLflow or the artifact store refuses or does not answer.
        """
        record = steps.snapshot(request, self._via.deployments(request.model), self._via)
        pinned, run = record.pinned, record.pinned.run_id or "unknown"
        log.info("alias %s of %s is version %s, run %s", pinned.alias, record.model, pinned.version, run)
        _say_if_live_already(record)
        return record

    def materialize(self, model: str, deploy_id: str) -> Deployment:
        """Bring the artifact into the repository, checked and durable, under its version's name.

        Raises:
            TakenBack: a bake found these files bad.
            DeployError: see materialize.Materializer.run.
        """
        return self._run("materialize", steps.materialize, State.MATERIALIZED, model, deploy_id)

    def load(self, model: str, deploy_id: str) -> Deployment:
        """Try the candidate in the staging Triton, if any, then load it into every Triton.

        Raises:
            Damaged: its files are not those that were deployed.
            EndedTriton: the candidate ended a Triton.
            ArtifactRejected, VerificationFailed: a Triton can't load it, or the staging Triton can't serve
            it.
            NoRoom: the Tritons' memory would not hold it.
            Unavailable: a Triton did not load it in time, or does not answer.
        """
        return self._run("load", steps.load, State.LOADED, model, deploy_id)

    def ready(self, model: str, deploy_id: str) -> Deployment:
        """Wait until every Triton has exactly this version ready.

        Raises:
            NotFound: a Triton does not have it ready in time.
            Unavailable: a Triton does not answer.
        """
        return self._run("ready", steps.ready, State.READY, model, deploy_id)

    def smoke(self, model: str, deploy_id: str) -> Deployment:
        """Compare the candidate's answers with the expected ones, on every Triton.

        Raises:
            VerificationFailed: wrong, non-finite or late answers.
            DeployError: see Fleet.smoke.
        """
        return self._run("smoke", steps.smoke, State.VERIFIED, model, deploy_id)

    def canary(self, model: str, deploy_id: str) -> Deployment:
        """Give the candidate a growing share of the requests, and watch it until the last step has ended.

        Raises:
            VerificationFailed, DeployError: see look_at_canary.
        """
        while (pause_s := self.look_at_canary(model, deploy_id)) is not None:
            self._via.sleep(pause_s)
        return self._via.deployments(model).folder.journal.get(deploy_id)

    def look_at_canary(self, model: str, deploy_id: str) -> float | None:
        """Begin a step of a canary, judge it, or end the canary, whichever is due now.

        Returns:
            Seconds until the next look is due; None when nothing is left to watch: the canary has ended
            well, none was asked for, or no version is live that could share its clients.

        Raises:
            VerificationFailed: the candidate does worse, or answers otherwise; its share has ended.
            CanaryUndecided: nothing could measure it, and no person decided in time; it is not blamed.
            CanaryAborted: a person ended it.
            Misconfigured, AccessDenied: it can never be judged, however long the deploy waits.
            SchemaChanged: clients of the live version could not use it.
            Superseded: another process committed, or rolled this deployment back.
        """
        record = still_wanted(self._via.deployments(model).folder.journal.get(deploy_id))
        if record.canary is None or record.state is State.UNCHANGED:
            return None
        with self._step("canary", State.TRIED, model, deploy_id) as step:
            if not step.due:
                return None
            watch = CanaryWatch(step, self._via.judge(), self._via.settings, self._via.counter())
            return watch.look(self._via.clock())

    def commit(self, model: str, deploy_id: str) -> Deployment:
        """Flip the switch, check through the public name, and write the release: then the version is live.

        The intent is recorded before clients can reach the candidate, and the decision when it answered
        them rightly. A commit that fails in between is undone at once. After the decision the next process
        that comes finishes it.

        Raises:
            Superseded: another deployment committed, or this one was rolled back.
            DeployError: the flip or the check failed; the switch points at the live version again.
        """
        return self._run("commit", steps.commit, State.COMMITTED, model, deploy_id)

    def rollback(self, model: str, deploy_id: str, by: str = "") -> Deployment | None:
        """Undo a deployment, or finish one that is past its decision: see Deployments.rollback."""
        return self._via.deployments(model).rollback(deploy_id, by)

    def plan_deploy(self, request: DeployRequest) -> Plan:
        """Return the plan of a deploy, and change nothing: see dry_run.plan_deploy."""
        return plan_deploy(request, self._via.deployments(request.model), self._via)

    def plan_revert(self, request: RevertRequest) -> Plan:
        """Return the plan of a revert, and change nothing: see dry_run.plan_revert."""
        return plan_revert(request, self._via.deployments(request.model))

    def plan_rollback(self, model: str, deploy_id: str) -> Plan:
        """Return the plan of a rollback, and change nothing: see dry_run.plan_rollback."""
        return plan_rollback(deploy_id, self._via.deployments(model))

    def what_serves(self, model: str) -> str:
        """Return a sentence that names the live version, for messages."""
        return self._via.deployments(model).last.what_serves()

    def _through(self, calls: Sequence[StepCall], model: str, deploy_id: str) -> Deployment:
        try:
            for call in calls:
                record = call(model, deploy_id)
            return record
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            try:
                self.rollback(model, deploy_id, STOPPED if stopped else "")
            except DeployError as left:
                # A revert that came first may have rolled it back at this moment.
                if not self._has_ended(model, deploy_id):
                    log.error(
                        "the rollback did not complete: %s Repeat it then: triton-deploy rollback %s --deploy-id %s",
                        left,
                        model,
                        deploy_id,
                    )
            raise

    def _has_ended(self, model: str, deploy_id: str) -> bool:
        """Whether a deployment has ended; False when its record can't be read."""
        with contextlib.suppress(DeployError):
            record = self._via.deployments(model).folder.journal.find(deploy_id)
            return record is not None and record.finished
        return False

    def _run(
        self,
        name: str,
        act: Callable[[RunningStep, Collaborators], None],
        goal: State,
        model: str,
        deploy_id: str,
    ) -> Deployment:
        """Run a step unless it is done already, and return the deployment."""
        with self._step(name, goal, model, deploy_id) as step:
            if step.due:
                act(step, self._via)
        return step.record

    @contextlib.contextmanager
    def _step(self, name: str, goal: State, model: str, deploy_id: str) -> Iterator[RunningStep]:
        """Read the record and renew the lease for a step, and record the error that ends it."""
        deployments = self._via.deployments(model)
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
        self._on_step(name, None)
        try:
            yield step
        except BaseException as error:
            superseded = step.failed(name, error)
            own = isinstance(error, DeployError) and not isinstance(error, Superseded)
            if superseded is not None and own:
                raise superseded from error
            raise
        if not step.due:
            took_s = time.perf_counter() - started
            self._on_step(name, took_s)
            log.info(
                "%s of %s version %s took %.2f s", name, model, step.record.version, took_s, extra=TOLD_LIVE
            )


def _say_if_live_already(record: Deployment) -> None:
    if record.state is State.UNCHANGED:
        log.info("version %s is live already: nothing to do", record.version, extra=TOLD_LIVE)
