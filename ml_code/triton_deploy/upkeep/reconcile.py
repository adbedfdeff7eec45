"""Make Triton and the derived files agree with the last release, from any state.

A look finds the repairs that are due (``look.py``), and ``repair.py`` does them under the lease. A healthy
model costs a few file reads, and all models together one call to each Triton. A repair is due after a
Triton was restarted, a load finished late, a worker died, or a person loaded or unloaded a model.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..clients.triton import Triton, tritons_of
from ..deploy.deployments import Deployments
from ..deploy.integrity import damage
from ..errors import DeployError, LeaseHeld, StorageFailed
from ..fleet.fleet import Fleet
from ..fleet.foreign import foreign_notice
from ..fleet.index_cache import IndexCache
from ..report.mlflow_tags import MlflowTags
from ..repository import ModelFolder, models_in
from ..rules.deployment import Deployment, State
from ..rules.moments import utc_text
from ..rules.reconcile_note import ReconcileNote
from ..rules.release import Release
from ..rules.standing import ALIAS_DRIFT, Notice
from ..settings import Settings
from .each_model import each_model
from .findings import Observation
from .look import NOT_TOUCHED, Look
from .repair import Repaired, repair

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """The result of one model's reconcile.

    Attributes:
        model: its name.
        live: the live version; None when no version is live, or when that can't be read.
        done: the repairs that were done; with ``dry_run``, the repairs that are due.
        problems: faults that need a person.
        under_way: the deployment because of which the model was left alone, or empty.
        notices: observations that harm nothing that serves.
        stuck: names that a Triton neither serves nor unloads: see ReconcileNote.
    """

    model: str
    live: int | None
    done: tuple[str, ...]
    problems: tuple[str, ...]
    under_way: str = ""
    notices: tuple[Notice, ...] = ()
    stuck: Mapping[str, str] = field(default_factory=dict)


class Reconciler:
    """Reconciles models of one repository.

    Args:
        settings: see ``Settings``.
        tritons: the servers; by default those of the settings.
        clock: gives the time, aware.
        feedback: tells the registry which version serves; MLflow by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tritons: Sequence[Triton] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        feedback: MlflowTags | None = None,
    ) -> None:
        self._settings = settings
        self._feedback = feedback or MlflowTags(settings)
        self._tritons = tritons_of(settings) if tritons is None else tritons
        self._clock = clock

    def run_all(
        self, models: Sequence[str] = (), *, deep: bool = False, dry_run: bool = False
    ) -> list[Reconciled]:
        """Reconcile one model after the other; an error at one model does not stop the others.

        Args:
            models: their names; by default all of the repository.
            deep: see run.
            dry_run: see run.

        Returns:
            The result of ``run`` for each model. An error, also a defect, is a problem of its model.

        Raises:
            Misconfigured: there is no repository.
        """
        root = self._settings.repository_root
        names = models or models_in(root)
        survey = IndexCache(root)

        def run(model: str) -> Reconciled:
            return self._run(model, survey, deep=deep, dry_run=dry_run)

        results = []
        for result in each_model(names, run, _failed, undone="not reconciled"):
            results.append(result)
            if not dry_run:
                self._leave_note(result)
        return results

    def run(self, model: str, *, deep: bool = False, dry_run: bool = False) -> Reconciled:
        """Put right everything that differs from the last release.

        A model with a deployment under way is left alone.

        Args:
            model: its name.
            deep: read every byte of the loaded versions, and compare them with their manifests.
            dry_run: say what would be done, and change nothing.

        Raises:
            InvalidInput, Misconfigured, StorageFailed: the repository can't be looked at.
        """
        return self._run(model, IndexCache(self._settings.repository_root), deep=deep, dry_run=dry_run)

    def _run(self, model: str, survey: IndexCache, *, deep: bool, dry_run: bool) -> Reconciled:
        look = self._look(model, survey)
        folder = look.folder
        me = f"reconcile-{uuid.uuid4().hex[:8]}"
        if lost := folder.evidence.missing(thorough=False):
            return _report(folder, problems=_not_touched(lost))
        holder, in_force = folder.lease.last(self._clock())
        record = folder.journal.find(holder) if holder else None
        if in_force and (record is None or not record.finished):
            if record is None or not self._is_emergency(record, look):
                return _report(folder, under_way=str(holder))
            log.error(
                "%s: no Triton answers while deployment %s is under way: rolling it back", model, holder
            )
            if not dry_run:
                look.deployments.give_up(record)
        if holder is None:
            return self._put_right(look, me, [], deep=deep, dry_run=dry_run)
        if not dry_run:
            try:
                look.deployments.settle_abandoned(me)
                survey.forget()
            except DeployError as error:
                return _report(folder, problems=[f"deployment {holder} can't be settled yet: {error}"])
        settled = [f"settle the abandoned deployment {holder}"]
        return self._put_right(look, me, settled, deep=deep, dry_run=dry_run)

    def _look(self, model: str, survey: IndexCache) -> Look:
        folder = ModelFolder.at(self._settings.repository_root, model)
        fleet = Fleet(folder, self._tritons, self._settings)
        deployments = Deployments(
            folder,
            lambda: fleet,
            self._settings,
            self._clock,
            lambda record: self._feedback.tell(folder, record),
        )
        return Look(deployments, survey, self._tritons)

    def _is_emergency(self, record: Deployment, look: Look) -> bool:
        """Whether no Triton serves the live version during a load or trial.

        The candidate's lease does not count then.
        """
        folder, survey = look.folder, look.survey
        live = folder.releases.latest()
        if live is None or record.state not in (State.MATERIALIZED, State.LOADED, State.READY):
            return False
        survey.forget()
        for triton in self._tritons:
            try:
                if live.active_version in survey.loaded(triton, folder.model).get(folder.model, ()):
                    return False
            except DeployError as error:
                log.warning("%s", error)
        return True

    def _put_right(
        self, look: Look, me: str, settled: Sequence[str], *, deep: bool, dry_run: bool
    ) -> Reconciled:
        """Look, repair under the lease, and report; no deployment is under way.

        Args:
            look: the model's.
            me: id of this reconcile, for the lease.
            settled: repairs that were done before.
            deep: see run.
            dry_run: see run.
        """
        folder = look.folder
        emptied, trash_problems = _empty_trash(folder, dry_run)
        seen = look.observe()
        if seen.repairs:
            # The first look may have used an older survey of all models: a deploy of this one may have
            # ended since.
            seen = look.forget().observe()
            if lost := folder.evidence.missing():
                return _report(folder, problems=_not_touched(lost))
        repaired = Repaired.only_seen(seen)
        if seen.repairs and not dry_run:
            try:
                # Looks once more, under the lease.
                repaired = repair(look, me)
            except LeaseHeld:
                return _report(folder, under_way="a deployment that has just begun")
            look.forget()
        return self._conclude(
            look,
            done=[*settled, *emptied, *repaired.done],
            problems=[*trash_problems, *repaired.problems],
            after=repaired.after,
            deep=deep,
            dry_run=dry_run,
        )

    def _conclude(
        self,
        look: Look,
        *,
        done: Sequence[str],
        problems: Sequence[str],
        after: Observation,
        deep: bool,
        dry_run: bool,
    ) -> Reconciled:
        """Report also the faults that no repair puts right, and tell the registry which version serves."""
        folder = look.folder
        hanging = look.still_hanging(after.hanging)
        faults = [
            *problems,
            *(problem.text for problem in after.problems),
            *(found.problem for found in hanging),
            *(trap.warning for trap in folder.traps.found()),
            *_damaged(folder, folder.releases.latest(), deep),
        ]
        told, notices = self._feedback.settle(folder, dry_run=dry_run)
        if after.foreign:
            notices = [*notices, foreign_notice([found.what for found in after.foreign])]
        return _report(
            folder,
            done=[*done, *told],
            problems=[*faults, *(notice.text for notice in notices if self._is_problem(notice))],
            notices=[notice for notice in notices if not self._is_problem(notice)],
            stuck={found.name: found.state for found in hanging},
        )

    def _is_problem(self, notice: Notice) -> bool:
        return notice.kind == ALIAS_DRIFT and self._settings.mlflow.alias_drift == "problem"

    def _leave_note(self, result: Reconciled) -> None:
        """Write the result where metrics and pages read it.

        A failure is logged, and is no problem of the model.
        """
        note = ReconcileNote(
            at_utc=utc_text(self._clock()),
            done=result.done,
            problems=result.problems,
            notices={notice.kind: notice.text for notice in result.notices},
            under_way=result.under_way,
            stuck=result.stuck,
        )
        try:
            folder = ModelFolder.at(self._settings.repository_root, result.model)
            if folder.journal.ids() and not folder.evidence.missing(thorough=False):
                folder.last_reconcile.write(note)
        except DeployError as error:
            log.warning("%s: metrics do not show this reconcile: %s", result.model, error)


def _failed(model: str, problem: str) -> Reconciled:
    return Reconciled(model=model, live=None, done=(), problems=(problem,))


def _not_touched(lost: Sequence[str]) -> list[str]:
    return [f"{text} {NOT_TOUCHED}" for text in lost]


def _report(
    folder: ModelFolder,
    *,
    done: Sequence[str] = (),
    problems: Sequence[str] = (),
    under_way: str = "",
    notices: Sequence[Notice] = (),
    stuck: Mapping[str, str] | None = None,
) -> Reconciled:
    live = folder.releases.latest()
    for notice in notices:
        log.warning("%s: %s", folder.model, notice.text)
    for line in done:
        log.info("%s: %s", folder.model, line)
    for line in problems:
        log.error("%s: %s", folder.model, line)
    return Reconciled(
        model=folder.model,
        live=live.active_version if live else None,
        done=tuple(done),
        problems=tuple(problems),
        under_way=under_way,
        notices=tuple(notices),
        stuck=stuck or {},
    )


def _empty_trash(folder: ModelFolder, dry_run: bool) -> tuple[list[str], list[str]]:
    """Remove the files that a gc had decided to remove, without a lease. Files that are open on NFS can wait.

    Returns:
        The directories that were removed, and the problems.
    """
    found = [path.name for path in folder.removals.trash()]
    if found and not dry_run:
        try:
            remaining = folder.removals.empty()
        except DeployError as error:
            return [], [str(error)]
        found = [name for name in found if name not in remaining]
    return [f"remove {name}" for name in found], []


def _damaged(folder: ModelFolder, live: Release | None, deep: bool) -> Iterator[str]:
    for version in live.loaded_versions if live else ():
        try:
            for what in damage(folder, version, deep):
                yield f"version {version}: {what}. Restore it from a backup, or deploy another version."
        except StorageFailed as error:
            yield f"version {version}: {error}"
