"""Does the repairs that a look found, under the model's lease."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ..errors import DeployError
from .findings import Finding, Observation, Repair
from .look import Look

LEASE_S = 60.0
"""Time after the deadline of a load for which a silent reconcile keeps the lease, seconds.

Shorter than a deploy's: a reconcile that was killed leaves nothing that is worth keeping other deployers
away."""


@dataclass(frozen=True)
class Repaired:
    """The end of the repairs of one model.

    Attributes:
        done: the repairs that a look afterwards did not find again.
        problems: the repairs that failed, or that the look afterwards found again.
        after: that look.
    """

    done: tuple[str, ...]
    problems: tuple[str, ...]
    after: Observation

    @classmethod
    def only_seen(cls, observation: Observation) -> Self:
        """Return the result when no repair is due, and that of a dry run, which has every repair as done."""
        return cls(tuple(repair.what for repair in observation.repairs), (), observation)


def repair(look: Look, me: str) -> Repaired:
    """Take the lease, do every repair, look again, and give the lease back.

    Args:
        look: the model's.
        me: id of this reconcile, for the lease.

    Raises:
        LeaseHeld: a deployment has begun.
        DeployError: an abandoned deployment can't be settled, or the repository can't be read.
    """
    look.deployments.take_lease(me, _lease_s(look))
    try:
        # Found under the lease, while no deployment can begin.
        done, failed = _do(look.forget().findings(), look, me)
        after = look.forget().observe()
    finally:
        look.folder.lease.release(me)
    remaining = {found.what for found in after.repairs}
    undone = [f"{what}: it is not so yet" for what in done if what in remaining]
    return Repaired(tuple(what for what in done if what not in remaining), (*failed, *undone), after)


def _do(findings: Iterable[Finding], look: Look, me: str) -> tuple[list[str], list[str]]:
    """Do each repair before the next finding is made; return the done ones, and the errors of the others."""
    folder, deployments = look.folder, look.deployments
    before = folder.releases.latest()
    done: list[str] = []
    failed: list[str] = []
    for found in findings:
        if not isinstance(found, Repair):
            continue
        try:
            folder.lease.renew(me, deployments.clock(), _lease_s(look))
            found.act()
            if folder.releases.latest() == before:
                done.append(found.what)
                continue
            # This process slept past its lease, and another one committed: the repair was for a release
            # that is no longer the last.
            deployments.last.follow()
        except DeployError as error:
            failed.append(f"{found.what}: {error}")
        else:
            return [*done, "bring everything to a release that came meanwhile"], failed
    return done, failed


def _lease_s(look: Look) -> float:
    return look.deployments.settings.triton.load_timeout_s + LEASE_S
