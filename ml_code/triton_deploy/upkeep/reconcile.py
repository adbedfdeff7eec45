"""Make Triton and the derived files agree with what was committed, from any state.

Looks first, touches nothing that is right: on a healthy system it costs a few file reads for each model, and one call to each
Triton for all of them. What it does is what a restarted Triton, a load that finished late, a worker that died or a person's own load call make necessary.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from ..clients.triton import Triton, tritons_of
from ..deploy.deployments import Deployments
from ..deploy.integrity import damage
from ..errors import DeployError, LeaseHeld, StorageFailed
from ..fleet.fleet import Fleet
from ..fleet.foreign import foreign_notice
from ..fleet.index_cache import IndexCache, Loaded
from ..report.mlflow_tags import MlflowTags
from ..repository import ModelFolder, models_in
from ..rules.deployment import Deployment, State
from ..rules.moments import utc_text
from ..rules.names import engine_name, engine_version
from ..rules.reconcile_note import ReconcileNote
from ..rules.release import Release
from ..rules.standing import ALIAS_DRIFT, Notice
from ..rules.version_files import Manifest
from ..settings import Settings

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""How long a reconcile that went silent keeps others away, besides the deadline of a load; seconds."""


SETTLE_S = 2.0
"""How long a Triton may take for what it has just been told, before it is taken for one that hangs; seconds."""


NOT_TOUCHED = "Nothing was touched. Restore the model's releases from a backup."


@dataclass(frozen=True)
class Repair:
    """Something that is not as it should be, and how it is put right."""

    what: str
    act: Callable[[], object]


@dataclass
class Seen:
    """What a look at one model met besides what can be put right.

    Attributes:
        unseen: why a Triton can't be looked at.
        stuck: what a Triton neither serves nor lets go: see ReconcileNote.
        problems: what needs a person.
        foreign: what has a name of this model and is not this deployer's: it is left alone.
    """

    unseen: list[str] = field(default_factory=list)
    stuck: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What was found and done for one model.

    Attributes:
        model: its name.
        live: the version that is live; None when there is none, or when it can't be said.
        done: what was put right; with ``dry_run``, what is to be done.
        problems: what could not be, and needs a person.
        under_way: the deployment because of which nothing was looked at, or empty.
        notices: what is worth knowing and harms nothing that serves.
        stuck: what Triton neither serves nor lets go: see ReconcileNote.
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
        feedback: tells the registry what serves; MLflow by default.
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
        """Reconcile one model after the other; what stops one is a problem of that one, and keeps no other waiting.

        Args:
            models: their names; by default all of the repository.
            deep: see run.
            dry_run: see run.

        Returns:
            What run returns, for each. Also a defect met at one model is reported so, and its traceback logged.

        Raises:
            Misconfigured: there is no repository.
        """
        root = self._settings.repository_root
        names = models or models_in(root)
        survey = IndexCache(root)
        results = []
        for name in names:
            results.append(self._run_or_tell(name, survey, deep=deep, dry_run=dry_run))
            if not dry_run:
                self._leave_note(results[-1])
        return results

    def run(self, model: str, *, deep: bool = False, dry_run: bool = False) -> Reconciled:
        """Put right what is not as it was committed.

        Args:
            model: its name.
            deep: read every byte of the load versions and compare with their manifests.
            dry_run: say what would be done, and change nothing.

        Returns:
            What was done, and what remains. A deploy that is under way is left alone.

        Raises:
            InvalidInput, Misconfigured, StorageFailed: the repository can't be looked at.
        """
        return self._run(model, IndexCache(self._settings.repository_root), deep=deep, dry_run=dry_run)

    def _run(self, model: str, survey: IndexCache, *, deep: bool, dry_run: bool) -> Reconciled:
        folder = ModelFolder.at(self._settings.repository_root, model)
        serving = Fleet(folder, self._tritons, self._settings)
        deployments = Deployments(
            folder,
            lambda: serving,
            self._settings,
            self._clock,
            lambda record: self._feedback.tell(folder, record),
        )
        me = f"reconcile-{uuid.uuid4().hex[:8]}"
        done: list[str] = []
        problems: list[str] = folder.evidence.missing(thorough=False)
        if problems:
            return self._report(folder, [], [f"{text} {NOT_TOUCHED}" for text in problems])
        holder, in_force = folder.lease.last(self._clock())
        record = folder.journal.find(holder) if holder else None
        if in_force and (record is None or not record.finished):
            if record is None or not self._is_emergency(record, folder, survey):
                return self._report(folder, [], [], under_way=str(holder))
            log.error(
                "%s: no Triton answers while deployment %s is under way: rolling it back", model, holder
            )
            if not dry_run:
                deployments.give_up(record)
        if holder is not None:
            done.append(f"settle the abandoned deployment {holder}")
            if not dry_run:
                try:
                    deployments.settle_abandoned(me)
                    survey.forget()
                except DeployError as error:
                    return self._report(folder, [], [f"deployment {holder} can't be settled yet: {error}"])
        done += self._trash(folder, dry_run, problems)
        seen = Seen()

        def look_again() -> Iterator[Repair]:
            nonlocal seen
            survey.forget()
            seen = Seen()
            return self._repairs(deployments, serving, survey, seen)

        repairs = list(self._repairs(deployments, serving, survey, seen))
        if repairs:
            # It was seen for all models at once, and a deploy of this one may have ended since.
            repairs = list(look_again())
            if lost := folder.evidence.missing():
                return self._report(folder, [], [f"{text} {NOT_TOUCHED}" for text in lost])
        if repairs and not dry_run:
            try:
                deployments.take_lease(me, self._lease_s)
            except LeaseHeld:
                return self._report(folder, [], [], under_way="a deployment that has just begun")
            repairs = self._repair(deployments, look_again, me, problems)
            survey.forget()
        stuck = self._still(seen.stuck, folder, survey)
        problems += [*seen.unseen, *seen.problems, *map(_hangs, stuck.items())]
        problems += (trap.warning for trap in folder.versions.traps())
        problems += self._damaged(folder, folder.releases.latest(), deep)
        done += [repair.what for repair in repairs]
        told, notices = self._feedback.settle(folder, dry_run=dry_run)
        if seen.foreign:
            notices = [*notices, foreign_notice(seen.foreign)]
        to_be_mended = [notice for notice in notices if self._is_problem(notice)]
        problems += [notice.text for notice in to_be_mended]
        notices = [notice for notice in notices if notice not in to_be_mended]
        return replace(self._report(folder, [*done, *told], problems, notices=notices), stuck=stuck)

    def _is_problem(self, notice: Notice) -> bool:
        return notice.kind == ALIAS_DRIFT and self._settings.mlflow.alias_drift == "problem"

    def _repair(
        self, deployments: Deployments, look: Callable[[], Iterator[Repair]], me: str, problems: list[str]
    ) -> list[Repair]:
        """Put everything right under the lease, and give it back; returns what was, and notes what was not."""
        folder = deployments.folder
        try:
            # Looked at again, now that no other can begin.
            repairs = list(self._apply(look(), deployments, problems, partial(self._keep_lease, folder, me)))
            remaining = {repair.what for repair in look()}
        finally:
            folder.lease.release(me)
        problems += [f"{repair.what}: it is not so yet" for repair in repairs if repair.what in remaining]
        return [repair for repair in repairs if repair.what not in remaining]

    def _is_emergency(self, record: Deployment, folder: ModelFolder, survey: IndexCache) -> bool:
        """Whether clients get nothing while a candidate is loaded or tried, so that its lease does not count."""
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

    def _run_or_tell(self, model: str, survey: IndexCache, *, deep: bool, dry_run: bool) -> Reconciled:
        try:
            return self._run(model, survey, deep=deep, dry_run=dry_run)
        except Exception as error:
            # A traceback is for a defect; an error of ours says all that there is.
            log.error("%s: it was not reconciled", model, exc_info=not isinstance(error, DeployError))
            told = str(error) if isinstance(error, DeployError) else f"{type(error).__name__}: {error}"
            return Reconciled(model=model, live=None, done=(), problems=(f"not reconciled: {told}",))

    def _leave_note(self, result: Reconciled) -> None:
        """Tell metrics and pages what was found; that they can't be told is no problem of the model."""
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
            log.warning("%s: metrics do not show what was found: %s", result.model, error)

    def _report(
        self,
        folder: ModelFolder,
        done: Sequence[str],
        problems: Sequence[str],
        under_way: str = "",
        notices: Sequence[Notice] = (),
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
        )

    @property
    def _lease_s(self) -> float:
        # Not as long as a deploy's: one that is killed here has left nothing that is worth keeping others away.
        return self._settings.triton.load_timeout_s + LEASE_S

    def _keep_lease(self, folder: ModelFolder, me: str) -> None:
        folder.lease.renew(me, self._clock(), self._lease_s)

    def _apply(
        self,
        repairs: Iterator[Repair],
        deployments: Deployments,
        problems: list[str],
        keep_lease: Callable[[], object],
    ) -> Iterator[Repair]:
        before = deployments.folder.releases.latest()
        for repair in repairs:
            try:
                keep_lease()
                repair.act()
                now = deployments.folder.releases.latest()
                if now == before:
                    yield repair
                    continue
                # This process slept past its lease: what it has just done is of a release that is no longer the last one.
                deployments.last.follow()
            except DeployError as error:
                problems.append(f"{repair.what}: {error}")
            else:
                yield Repair("bring everything to a release that came meanwhile", deployments.last.follow)
                return

    def _repairs(
        self, deployments: Deployments, serving: Fleet, survey: IndexCache, seen: Seen
    ) -> Iterator[Repair]:
        """Yield what is wrong, in the order in which it has to be put right: files first, then every Triton; the rest goes to ``seen``."""
        folder = deployments.folder
        tritons = list(self._seen(folder, survey, seen.unseen))
        kept = self._hanging(folder, survey, [triton for triton, _ in tritons], seen.stuck)
        for path in folder.removals.undecided():
            # First of all: it may be what is live, taken by a gc that was stopped, lost its lease and died.
            yield Repair(f"put {path.name} back", partial(folder.removals.settle, path))
        live = folder.releases.latest()
        seen.problems += _lost(folder, live, tritons)
        if seen.problems:
            return
        manifest = folder.versions.usable(live.active_version) if live else None
        if live is not None:
            if folder.releases.projected() != live:
                yield Repair("rewrite current.json", deployments.last.project)
            if manifest is None:
                # Reported as damage. Triton may still serve it from memory: nothing else is touched.
                yield from self._back_without_files(deployments, live, tritons)
                return
            yield from self._derived_files(folder, serving, deployments, live, manifest)
        yield from self._left_over(folder, survey, live, kept, seen)
        for triton, loaded in tritons:
            yield from self._on_triton(deployments, live, triton, loaded, seen)

    def _left_over(
        self, folder: ModelFolder, survey: IndexCache, live: Release | None, kept: set[int], seen: Seen
    ) -> Iterator[Repair]:
        """Yield what deployments have left in the repository, as far as it is theirs."""
        engines = sorted({*survey.engines(folder.model), *folder.engines.configured()})
        loaded_versions = live.loaded_versions if live else ()
        for version in engines:
            seen.foreign += map(str, folder.engines.foreign(version))
        # Triton lists only what has a folder: that of an engine that hangs stays, so that it is seen.
        for version in sorted(set(engines) - set(loaded_versions) - kept):
            if folder.ownership.owns_engine(version):
                yield Repair(
                    f"remove the engine of version {version}", partial(folder.engines.remove, version)
                )
            elif not folder.engines.foreign(version):
                seen.foreign.append(str(folder.engines.folders(version)[0]))
        for deploy_id in folder.versions.stages():
            if folder.ownership.owns_stage(deploy_id):
                yield Repair(
                    f"remove what deployment {deploy_id} had staged",
                    partial(folder.versions.discard_stage, deploy_id),
                )
            else:
                seen.foreign.append(str(folder.versions.entry(f".staging-{deploy_id}")))
        ours = [
            version
            for version in engines
            if version in loaded_versions or folder.ownership.owns_engine(version)
        ]
        for path in folder.versions.temporaries(
            [path for version in ours for path in folder.engines.folders(version)]
        ):
            yield Repair(
                f"remove the unfinished file {path.name}", partial(folder.versions.remove_temporary, path)
            )

    def _back_without_files(
        self, deployments: Deployments, live: Release, tritons: Sequence[tuple[Triton, Loaded]]
    ) -> Iterator[Repair]:
        """Yield where the live version, whose files are gone, is still loaded and does not serve."""
        model, version = deployments.folder.model, live.active_version
        for triton, loaded in tritons:
            if version in loaded.get(engine_name(model, version), ()) and loaded.get(model, ()) != (version,):
                yield Repair(
                    f"make {triton.url} serve version {version}", partial(deployments.last.restore, triton)
                )

    def _seen(
        self, folder: ModelFolder, survey: IndexCache, unseen: list[str]
    ) -> Iterator[tuple[Triton, Loaded]]:
        """Yield each Triton that answers with what it has loaded, and note why the others do not."""
        for triton in self._tritons:
            try:
                yield triton, survey.loaded(triton, folder.model)
            except DeployError as error:
                unseen.append(str(error))

    def _hanging(
        self, folder: ModelFolder, survey: IndexCache, tritons: Sequence[Triton], stuck: dict[str, str]
    ) -> set[int]:
        """Note what hangs on which Triton; returns the versions whose engines are among it."""
        versions = set()
        for triton in tritons:
            for name, state in survey.stuck(triton, folder.model).items():
                version = engine_version(folder.model, name)
                if version is None and name != folder.model:
                    continue
                stuck[f"{name} on {triton.url}"] = str(state)
                if version is not None:
                    versions.add(version)
        return versions

    def _still(self, stuck: Mapping[str, str], folder: ModelFolder, survey: IndexCache) -> dict[str, str]:
        """Return what hangs a moment later as well: what a Triton has just been told goes through the same states."""
        if not stuck:
            return {}
        time.sleep(SETTLE_S)
        survey.forget()
        later: dict[str, str] = {}
        self._hanging(folder, survey, [triton for triton, _ in self._seen(folder, survey, [])], later)
        return {what: state for what, state in later.items() if what in stuck}

    def _derived_files(
        self, folder: ModelFolder, serving: Fleet, deployments: Deployments, live: Release, manifest: Manifest
    ) -> Iterator[Repair]:
        if not serving.files.switch_is_written(manifest):
            yield Repair("rewrite the switch's config.pbtxt", deployments.last.project)
        for version in live.loaded_versions:
            kept = folder.versions.usable(version)
            if kept is not None and not serving.files.engine_is_whole(kept):
                yield Repair(
                    f"rebuild the engine of version {version}", partial(serving.files.complete_engine, kept)
                )

    def _on_triton(
        self, deployments: Deployments, live: Release | None, triton: Triton, loaded: Loaded, seen: Seen
    ) -> Iterator[Repair]:
        folder = deployments.folder
        wanted = {
            engine_name(folder.model, version): version for version in (live.loaded_versions if live else ())
        }
        for engine, version in wanted.items():
            if version not in loaded.get(engine, ()) and folder.versions.usable(version) is not None:
                yield Repair(
                    f"load version {version} into {triton.url}",
                    partial(deployments.serving().on(triton).load, version),
                )
        serving = loaded.get(folder.model, ())
        if serving != ((live.active_version,) if live else ()):
            if live:
                what = f"make {triton.url} serve version {live.active_version}"
                yield Repair(what, partial(deployments.last.restore, triton))
            elif folder.ownership.may_have_flipped():
                yield Repair(
                    f"take {folder.model} out of {triton.url}", partial(deployments.last.restore, triton)
                )
            else:
                seen.foreign.append(f"{folder.model} in {triton.url}")
        for name in loaded:
            number = engine_version(folder.model, name)
            if number is None or name in wanted:
                continue
            if folder.ownership.knows(number):
                yield Repair(
                    f"unload {name} from {triton.url}",
                    partial(triton.unload, name, self._settings.triton.switch_timeout_s),
                )
            else:
                seen.foreign.append(f"{name} in {triton.url}")

    def _trash(self, folder: ModelFolder, dry_run: bool, problems: list[str]) -> list[str]:
        """Remove what a gc decided to and did not come to; needs no lease, and what is open on NFS can wait."""
        found = [path.name for path in folder.removals.trash()]
        if found and not dry_run:
            try:
                remaining = folder.removals.empty()
            except DeployError as error:
                problems.append(str(error))
                return []
            found = [name for name in found if name not in remaining]
        return [f"remove {name}" for name in found]

    def _damaged(self, folder: ModelFolder, live: Release | None, deep: bool) -> Iterator[str]:
        for version in live.loaded_versions if live else ():
            try:
                for what in damage(folder, version, deep):
                    yield f"version {version}: {what}. Restore it from a backup, or deploy another version."
            except StorageFailed as error:
                yield f"version {version}: {error}"


def _lost(
    folder: ModelFolder, live: Release | None, tritons: Sequence[tuple[Triton, Loaded]]
) -> Iterator[str]:
    """Yield which Tritons serve what only a release that is gone can have given them."""
    for triton, loaded in tritons:
        serving = loaded.get(folder.model, ())
        if serving != ((live.active_version,) if live else ()):
            for version in folder.ownership.lost(serving):
                yield (
                    f"{triton.url} serves version {version} of {folder.model}, which this deployer brought, and no release is of it. "
                    f"{NOT_TOUCHED}"
                )


def _hangs(found: tuple[str, str]) -> str:
    what, state = found
    return (
        f"{what} is {state}, and no deployment is under way: it computes there, or hangs. Restart that Triton"
    )
