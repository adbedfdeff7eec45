"""Remove what the retention lets go: versions that nobody reverts to any more, old quarantines and records.

Looks first, and takes the model's lease only to move away what goes; a deploy that is under way is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
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

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Something that went, or goes with ``dry_run``.

    Attributes:
        kind: what it was.
        name: version, directory name or deploy id.
        size_bytes: what that frees: the bytes that no other version shares.
        why: the reason.
    """

    kind: Kind
    name: str
    size_bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was found and done for one model.

    Attributes:
        model: its name.
        live: the version that is live, or None.
        removed: what went; with ``dry_run``, what is to go.
        kept: what stays, with the reason.
        still_open: what went but for files that some process has open (on NFS); it is tried again at the next time.
        problems: what could not be done.
        under_way: the deployment because of which nothing was looked at, or empty.
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
        """Bytes that what was removed took."""
        return sum(removed.size_bytes for removed in self.removed)


class GarbageCollector:
    """Applies the retention to models of one repository.

    Args:
        settings: see ``Settings``.
        tritons: the servers, asked only when an abandoned deployment has to be settled; by default those of the settings.
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
        """Collect one model after the other; what stops one is a problem of that one, and keeps no other waiting.

        Args:
            models: their names; by default all of the repository.
            dry_run: see run.

        Returns:
            What run returns, for each. Also a defect met at one model is reported so, and its traceback logged.

        Raises:
            Misconfigured: there is no repository.
        """
        names = models or models_in(self._settings.repository_root)
        return [self._run_or_tell(name, dry_run=dry_run) for name in names]

    def run(self, model: str, *, dry_run: bool = False) -> Collected:
        """Remove what the retention lets go.

        Args:
            model: its name.
            dry_run: say what would be removed, and change nothing.

        Returns:
            What was removed, what stays and why, and what could not be done. A deploy that is under way is left alone.

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
                removed += [_measured(folder, verdict) for verdict in verdicts if verdict.goes]
            elif folder.removals.undecided() or any(verdict.goes for verdict in verdicts):
                with self._lease(deployments, me):
                    # Judged again: a deploy may have ended meanwhile.
                    verdicts = self._judge(folder)
                    self._take_away(deployments, me, verdicts, removed, problems)
        except LeaseHeld:
            under_way = folder.lease.last(self._clock())[0] or "a deployment that has just begun"
        except DeployError as error:
            problems.append(str(error))
        still_open = [] if dry_run else _without_trash(folder, problems)
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

    def _run_or_tell(self, model: str, *, dry_run: bool) -> Collected:
        try:
            return self.run(model, dry_run=dry_run)
        except Exception as error:
            # A traceback is for a defect; an error of ours says all that there is.
            log.error("%s: nothing was collected", model, exc_info=not isinstance(error, DeployError))
            told = str(error) if isinstance(error, DeployError) else f"{type(error).__name__}: {error}"
            return Collected(model=model, live=None, problems=(f"not collected: {told}",))

    @contextlib.contextmanager
    def _lease(self, deployments: Deployments, me: str) -> Iterator[None]:
        deployments.take_lease(me)
        try:
            for path in deployments.folder.removals.undecided():
                deployments.folder.removals.settle(path)
            yield
        finally:
            deployments.folder.lease.release(me)

    def _take_away(
        self,
        deployments: Deployments,
        me: str,
        verdicts: Sequence[GcVerdict],
        removed: list[Removed],
        problems: list[str],
    ) -> None:
        folder = deployments.folder
        for verdict in verdicts:
            if not verdict.goes:
                continue
            try:
                found = _measured(folder, verdict)
                folder.removals.remove(_path(folder, verdict), partial(folder.lease.require, me))
            except StorageFailed as error:
                problems.append(f"{verdict.kind} {verdict.name}: {error}")
            else:
                removed.append(found)

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


def _inventory(folder: ModelFolder, now: datetime) -> Inventory:
    versions = folder.versions
    deployments = tuple(folder.journal.all())
    ended = {record.deploy_id: record.last_time for record in deployments}

    def found(name: str, deploy_id: str) -> Found:
        # Not before its deployment ended: a rollback may have come to it long after the failure.
        known = [at for at in (versions.failed_at(name), ended.get(deploy_id)) if at is not None]
        return Found(deploy_id=deploy_id, since=max(known) if known else versions.changed_at(name))

    return Inventory(
        releases=tuple(folder.releases.history()),
        versions={
            version: found(str(version), deploy_id) for version, deploy_id in versions.installed().items()
        },
        quarantined={name: found(name, deploy_id) for name, deploy_id in versions.put_aside().items()},
        engines=frozenset(folder.engines.versions()),
        deployments=deployments,
        holder=folder.lease.last(now)[0] or "",
    )


def _without_foreign(folder: ModelFolder, verdict: GcVerdict) -> GcVerdict:
    """Let nothing go in which somebody else has put something."""
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


def _path(folder: ModelFolder, verdict: GcVerdict) -> Path:
    if verdict.kind is Kind.DEPLOYMENT:
        return folder.journal.path(verdict.name)
    return folder.versions.entry(verdict.name)


def _measured(folder: ModelFolder, verdict: GcVerdict) -> Removed:
    return Removed(
        kind=verdict.kind,
        name=verdict.name,
        size_bytes=folder.removals.size_bytes(_path(folder, verdict)),
        why=verdict.why,
    )


def _without_trash(folder: ModelFolder, problems: list[str]) -> list[str]:
    """Remove the files of what was decided to go, which needs no lease: nobody looks for them."""
    try:
        return folder.removals.empty()
    except DeployError as error:
        problems.append(str(error))
        return []


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
        log.warning("%s: files of %s are still open somewhere; the next gc tries again", found.model, name)
    for problem in found.problems:
        log.error("%s: %s", found.model, problem)
    return found
