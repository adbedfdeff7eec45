"""Remove versions, quarantined directories and records that the retention no longer keeps.

A look comes first. The model's lease is taken only to move directories away; a model with a deploy under
way is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ..clients.triton import Triton, tritons_of
from ..deploy.deployments import Deployments
from ..errors import DeployError, LeaseHeld, StorageFailed
from ..fleet.fleet import Fleet
from ..repository import ModelFolder, models_in
from ..rules.gc_rules import Found, GcVerdict, Inventory, Kind, Policy, judge
from ..settings import Settings
from .each_model import each_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A directory that was removed; with ``dry_run``, one that is to be removed.

    Attributes:
        kind: version, quarantined directory or deployment record.
        name: version, directory name or deploy id.
        size_bytes: bytes that the removal frees: those that no other version shares.
        why: the reason.
    """

    kind: Kind
    name: str
    size_bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The result of one model's garbage collection.

    Attributes:
        model: its name.
        live: the live version, or None.
        removed: the removed directories; with ``dry_run``, those that are to be removed.
        kept: the directories that stay, with the reason.
        still_open: removed directories of which a process has files open (on NFS); the next gc tries again.
        problems: the removals that failed, and why.
        under_way: the deployment because of which the model was left alone, or empty.
    """

    model: str
    live: int | None
    removed: tuple[Removed, ...] = ()
    kept: tuple[GcVerdict, ...] = ()
    still_open: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    under_way: str = ""

    @property
    def freed_bytes(self) -> int:
        """Bytes that the removals free together."""
        return sum(removed.size_bytes for removed in self.removed)


class GarbageCollector:
    """Applies the retention to models of one repository.

    Args:
        settings: see ``Settings``.
        tritons: the servers, asked only to settle an abandoned deployment; by default those of the settings.
        clock: gives the time, aware.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tritons: Sequence[Triton] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._tritons = tritons
        self._clock = clock

    def run_all(self, models: Sequence[str] = (), *, dry_run: bool = False) -> list[Collected]:
        """Collect one model after the other; an error at one model does not stop the others.

        Args:
            models: their names; by default all of the repository.
            dry_run: see run.

        Returns:
            The result of ``run`` for each model. An error, also a defect, is a problem of its model.

        Raises:
            Misconfigured: there is no repository.
        """
        names = models or models_in(self._settings.repository_root)
        return list(each_model(names, partial(self.run, dry_run=dry_run), _failed, undone="not collected"))

    def run(self, model: str, *, dry_run: bool = False) -> Collected:
        """Remove what the retention no longer keeps. A model with a deploy under way is left alone.

        Args:
            model: its name.
            dry_run: say what would be removed, and change nothing.

        Raises:
            InvalidInput, Misconfigured: there is no such place.
        """
        folder = ModelFolder.at(self._settings.repository_root, model)
        deployments = Deployments(folder, lambda: self._serving(folder), self._settings, self._clock)
        me = f"gc-{uuid.uuid4().hex[:8]}"
        verdicts: list[GcVerdict] = []
        removed: list[Removed] = []
        problems: list[str] = []
        under_way = ""
        try:
            folder.evidence.require()
            deployments.abandoned(me)
            verdicts = self._judge(folder)
            if dry_run:
                removed += [_measured(folder, verdict) for verdict in _going(verdicts)]
            elif folder.removals.undecided() or _going(verdicts):
                with _lease(deployments, me):
                    # A deploy may have ended since the first look.
                    verdicts = self._judge(folder)
                    for verdict in _going(verdicts):
                        try:
                            removed.append(_remove(folder, verdict, me))
                        except StorageFailed as error:
                            problems.append(f"{verdict.kind} {verdict.name}: {error}")
        except LeaseHeld:
            under_way = folder.lease.last(self._clock())[0] or "a deployment that has just begun"
        except DeployError as error:
            problems.append(str(error))
        still_open: list[str] = []
        if not dry_run:
            try:
                # Needs no lease: no process looks for these files any more.
                still_open = folder.removals.empty()
            except DeployError as error:
                problems.append(str(error))
        return _reported(
            Collected(
                model=model,
                live=_live(folder),
                removed=tuple(removed),
                kept=tuple(verdict for verdict in verdicts if not verdict.goes),
                still_open=tuple(still_open),
                problems=tuple(problems),
                under_way=under_way,
            ),
            dry_run,
        )

    def _judge(self, folder: ModelFolder) -> list[GcVerdict]:
        settings = self._settings
        policy = Policy(
            releases=settings.retention.keep_releases,
            quarantined=settings.retention.keep_quarantined,
            days=settings.retention.quarantine_days,
        )
        now = self._clock()
        return [_without_foreign(folder, verdict) for verdict in judge(_inventory(folder, now), policy, now)]

    def _serving(self, folder: ModelFolder) -> Fleet:
        tritons = tritons_of(self._settings) if self._tritons is None else self._tritons
        return Fleet(folder, tritons, self._settings)


@contextlib.contextmanager
def _lease(deployments: Deployments, me: str) -> Iterator[None]:
    """Have the lease, after every directory that an earlier gc moved away and did not decide on is back."""
    deployments.take_lease(me)
    try:
        for path in deployments.folder.removals.undecided():
            deployments.folder.removals.settle(path)
        yield
    finally:
        deployments.folder.lease.release(me)


def _inventory(folder: ModelFolder, now: datetime) -> Inventory:
    deployments = tuple(folder.journal.all())
    ended = {record.deploy_id: record.last_time for record in deployments}

    def found(path: Path, deploy_id: str) -> Found:
        # Its days begin when its deployment ended: a rollback may come long after the failure.
        known = [
            at for at in (folder.quarantine.failed_at(path.name), ended.get(deploy_id)) if at is not None
        ]
        return Found(deploy_id=deploy_id, since=max(known) if known else folder.removals.changed_at(path))

    return Inventory(
        releases=tuple(folder.releases.history()),
        versions={
            version: found(folder.versions.path(version), deploy_id)
            for version, deploy_id in folder.versions.installed().items()
        },
        quarantined={
            name: found(folder.quarantine.path(name), deploy_id)
            for name, deploy_id in folder.quarantine.contents().items()
        },
        engines=frozenset(folder.engines.versions()),
        deployments=deployments,
        holder=folder.lease.last(now)[0] or "",
    )


def _without_foreign(folder: ModelFolder, verdict: GcVerdict) -> GcVerdict:
    """Return the verdict, or one that keeps a directory that holds files of another program."""
    if not verdict.goes or verdict.kind is Kind.QUARANTINED:
        return verdict
    foreign = (
        folder.ownership.foreign_in_version(int(verdict.name))
        if verdict.kind is Kind.VERSION
        else folder.ownership.foreign_in_deployment(verdict.name)
    )
    if not foreign:
        return verdict
    return replace(verdict, goes=False, why=f"{foreign[0]} in it is not of this deployer")


def _going(verdicts: Iterable[GcVerdict]) -> list[GcVerdict]:
    return [verdict for verdict in verdicts if verdict.goes]


def _path(folder: ModelFolder, verdict: GcVerdict) -> Path:
    if verdict.kind is Kind.DEPLOYMENT:
        return folder.journal.path(verdict.name)
    if verdict.kind is Kind.VERSION:
        return folder.versions.path(int(verdict.name))
    return folder.quarantine.path(verdict.name)


def _measured(folder: ModelFolder, verdict: GcVerdict) -> Removed:
    return Removed(
        kind=verdict.kind,
        name=verdict.name,
        size_bytes=folder.removals.size_bytes(_path(folder, verdict)),
        why=verdict.why,
    )


def _remove(folder: ModelFolder, verdict: GcVerdict, me: str) -> Removed:
    # Measured before: afterwards the directory is gone.
    removed = _measured(folder, verdict)
    folder.removals.remove(_path(folder, verdict), partial(folder.lease.require, me))
    return removed


def _failed(model: str, problem: str) -> Collected:
    return Collected(model=model, live=None, problems=(problem,))


def _live(folder: ModelFolder) -> int | None:
    with contextlib.suppress(DeployError):
        live = folder.releases.latest()
        return live.active_version if live else None
    return None


def _reported(found: Collected, dry_run: bool) -> Collected:
    if not dry_run:
        for removed in found.removed:
            log.info("%s: removed %s %s: %s", found.model, removed.kind, removed.name, removed.why)
    for name in found.still_open:
        log.warning("%s: a process still has files of %s open; the next gc tries again", found.model, name)
    for problem in found.problems:
        log.error("%s: %s", found.model, problem)
    return found
