"""Decides which parts of a model's past stay in the repository: the rule behind ``triton-deploy gc``.

Pure rules: standard library and records only, no I/O, time is an argument. A directory stays as long as
something needs it; else it goes when its time is over. Release records are not judged: the history stays
whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from .deployment import Deployment
from .release import Release

GRACE = timedelta(days=1)
"""Least age of a quarantined directory or journal that goes. A process may be stopped in a rollback and
wake up later: the name of the quarantined directory tells it that the rollback is done, and that the
installed version is a newer one."""


class Kind(StrEnum):
    """The kinds of directories that can go."""

    VERSION = "version"
    """A version's directory."""
    QUARANTINED = "quarantined"
    """A quarantined directory."""
    DEPLOYMENT = "deployment"
    """The journal of a deployment."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How much of the past is kept.

    Attributes:
        releases: number of recent releases whose versions stay, so that they can be reverted to.
        quarantined: number of quarantined directories that stay, the newest ones.
        days: age after which a failed version and a deployment's journal may go, days.
    """

    releases: int
    quarantined: int
    days: float

    def is_over(self, since: datetime, now: datetime) -> bool:
        """Whether a directory whose time began at ``since`` is old enough to go."""
        return (now - since).total_seconds() > max(self.days * 86_400, GRACE.total_seconds())


@dataclass(frozen=True, kw_only=True)
class Found:
    """A directory that a deployment made.

    Attributes:
        deploy_id: the deployment, or empty if the directory does not name it.
        since: when the directory was installed or quarantined; aware.
    """

    deploy_id: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything in the repository that belongs to one model.

    Attributes:
        releases: all releases, newest first.
        versions: version directories.
        quarantined: quarantined directories, by name.
        engines: versions that have an engine.
        deployments: every deployment as last recorded.
        holder: the deployment that has the lease, or empty.
    """

    releases: tuple[Release, ...]
    versions: Mapping[int, Found]
    quarantined: Mapping[str, Found]
    engines: frozenset[int]
    deployments: tuple[Deployment, ...]
    holder: str = ""


@dataclass(frozen=True, kw_only=True)
class GcVerdict:
    """The verdict on one directory.

    Attributes:
        kind: the directory's kind.
        name: version, directory name or deploy id.
        goes: whether the directory has to be removed.
        why: the reason, in words.
    """

    kind: Kind
    name: str
    goes: bool
    why: str


def judge(inventory: Inventory, policy: Policy, now: datetime) -> list[GcVerdict]:
    """Decide for every directory whether it goes, and why.

    Args:
        inventory: the model's directories.
        policy: how much of the past is kept.
        now: aware time.

    Returns:
        A verdict for each version (ascending), each quarantined directory (newest first) and each
        deployment (by name).
    """
    versions = list(_versions(inventory, policy, now))
    quarantined = list(_quarantined(inventory, policy, now))
    needed = _deployments_of_what_stays(inventory, policy, [*versions, *quarantined])
    return [*versions, *quarantined, *_deployments(inventory, policy, now, needed)]


def _versions(inventory: Inventory, policy: Policy, now: datetime) -> Iterator[GcVerdict]:
    released = {release.active_version for release in inventory.releases}
    for version, found in sorted(inventory.versions.items()):
        needs = [*_needs(version, inventory, policy)]
        if needs:
            goes, why = False, ", ".join(needs)
        elif not found.deploy_id:
            # Even if a version of this number was released: the released files may have gone long ago.
            goes, why = False, "no deployment is known to have brought it: it is not ours to remove"
        elif version in released:
            goes, why = True, f"no release of the last {policy.releases} is of it"
        elif policy.is_over(found.since, now):
            goes, why = True, f"deployment {found.deploy_id} left it and was never released"
        else:
            goes, why = False, f"deployment {found.deploy_id} left it not long ago"
        yield GcVerdict(kind=Kind.VERSION, name=str(version), goes=goes, why=why)


def _needs(version: int, inventory: Inventory, policy: Policy) -> Iterator[str]:
    """Yield the reasons for which a version is needed."""
    live = inventory.releases[0] if inventory.releases else None
    if live is not None:
        if version == live.active_version:
            yield "live"
        if version in live.warm_versions:
            yield "warm"
        if version == live.previous_version:
            yield "replaced by the live version"
    for release in inventory.releases[: policy.releases]:
        if version == release.active_version:
            yield f"release {release.generation}"
            break
    for record in inventory.deployments:
        if not record.finished and version in (record.version, record.base_version):
            yield f"deployment {record.deploy_id} has not ended"
    if version in inventory.engines and not (live and version in live.loaded_versions):
        yield "its engine is still there, which a reconcile removes"


def _quarantined(inventory: Inventory, policy: Policy, now: datetime) -> Iterator[GcVerdict]:
    unfinished = {record.deploy_id for record in inventory.deployments if not record.finished}
    newest_first = sorted(
        ((name, found) for name, found in inventory.quarantined.items() if found.deploy_id),
        key=lambda item: (item[1].since, item[0]),
        reverse=True,
    )
    for name in sorted(inventory.quarantined.keys() - dict(newest_first).keys()):
        why = "it does not say which deployment it is of: it is not ours to remove"
        yield GcVerdict(kind=Kind.QUARANTINED, name=name, goes=False, why=why)
    for place, (name, found) in enumerate(newest_first):
        if found.deploy_id in unfinished:
            goes, why = False, f"deployment {found.deploy_id} has not ended"
        elif policy.is_over(found.since, now):
            goes, why = True, f"older than {policy.days:g} days"
        elif place < policy.quarantined:
            goes, why = False, f"one of the newest {policy.quarantined}"
        elif now - found.since <= GRACE:
            goes, why = False, "less than a day old"
        else:
            goes, why = True, f"there are {policy.quarantined} newer ones"
        yield GcVerdict(kind=Kind.QUARANTINED, name=name, goes=goes, why=why)


def _deployments_of_what_stays(
    inventory: Inventory, policy: Policy, verdicts: list[GcVerdict]
) -> Mapping[str, str]:
    """Return the deployments whose journals have to stay, with the reason."""
    needed = {inventory.holder: "it has the lease"}
    for verdict in verdicts:
        if not verdict.goes:
            found = (
                inventory.versions[int(verdict.name)]
                if verdict.kind is Kind.VERSION
                else inventory.quarantined[verdict.name]
            )
            needed[found.deploy_id] = f"it brought {verdict.name}"
    for release in inventory.releases[: max(policy.releases, 1)]:
        needed[release.deploy_id] = f"release {release.generation}"
    return needed


def _deployments(
    inventory: Inventory, policy: Policy, now: datetime, needed: Mapping[str, str]
) -> Iterator[GcVerdict]:
    for record in inventory.deployments:
        if not record.finished:
            goes, why = False, f"it is {record.state}: it has not ended"
        elif record.deploy_id in needed:
            goes, why = False, needed[record.deploy_id]
        elif policy.is_over(record.last_time, now):
            goes, why = True, f"it ended more than {policy.days:g} days ago"
        else:
            goes, why = False, "it ended not long ago"
        yield GcVerdict(kind=Kind.DEPLOYMENT, name=record.deploy_id, goes=goes, why=why)
