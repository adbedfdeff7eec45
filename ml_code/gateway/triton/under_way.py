"""The deploy of a model that has not ended, for the page: its step, its canary, and who asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...triton_deploy.repository import ModelFolder
from ...triton_deploy.rules.canary import step_of, steps_of
from ...triton_deploy.rules.deployment import Canary, Deployment, State

ENDS: Mapping[str, State] = {
    "materialize": State.MATERIALIZED,
    "load": State.LOADED,
    "ready": State.READY,
    "smoke": State.VERIFIED,
    "canary": State.TRIED,
    "commit": State.COMMITTED,
}
"""The state that ends each step, in the order of the steps."""


def under_way(folder: ModelFolder, now: datetime) -> dict[str, Any] | None:
    """Return the deployment that has the lease and has not ended, as plain JSON values, or None.

    Args:
        folder: the model's place in the repository.
        now: aware time.

    Raises:
        StorageFailed: its record can't be read.
    """
    deploy_id, in_force = folder.lease.last(now)
    record = folder.journal.find(deploy_id) if deploy_id else None
    if record is None or record.finished:
        return None
    # Of a canary without a secret, the id decides which clients meet the candidate. Clients must not know
    # the id, and it follows from the name of Airflow's run, which is the actor.
    shows_id = record.canary is None or bool(record.canary.key)
    failure = record.failure
    return {
        "version": record.version,
        "alias": record.pinned.alias,
        "run_id": record.pinned.run_id,
        "deploy_id": record.deploy_id if shows_id else "",
        "actor": record.actor if shows_id else "",
        "reason": record.reason,
        "state": str(record.state),
        "step": failure.step if failure and record.due_step is None else record.due_step,
        "steps": _steps(record),
        "began_utc": min(record.times_utc.values()),
        "has_lease": in_force,
        "failure": failure.error if failure else "",
        "canary": _canary(record.canary, now) if record.canary else None,
    }


def _steps(record: Deployment) -> list[dict[str, Any]]:
    """Return each step with its state, ``done``, ``now`` or ``due``, and when it ended."""
    times = record.times_utc
    return [
        {
            "name": name,
            "state": "done" if end in times else "now" if name == record.due_step else "due",
            "ended_utc": times.get(end),
        }
        for name, end in ENDS.items()
        if name != "canary" or record.canary is not None
    ]


def _canary(canary: Canary, now: datetime) -> dict[str, Any]:
    """Return the part of a canary that people may see: everything but its secret and what it counts."""
    exposed = bool(canary.until_utc) and now < datetime.fromisoformat(canary.until_utc)
    return {
        "steps": [str(step) for step in steps_of(canary)],
        "step": canary.step,
        "is": str(step_of(canary)) if canary.step else "",
        "share_percent": canary.share_percent if exposed else 0,
        "mirrored_percent": canary.mirrored_percent if exposed else 0,
        "step_s": canary.step_s,
        "since_utc": canary.since_utc,
        "held_for": canary.held_for,
        "told": {key: canary.told.get(key, "") for key in ("what", "by", "reason")} if canary.told else None,
        "verdict": str(canary.judgment.get("verdict", "")),
        "why": str(canary.judgment.get("why", "")),
    }
