"""One step of a deployment at work."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import DeployError, Superseded
from ..fleet.fleet import Fleet
from ..rules.deployment import Deployment, State
from .deployments import Deployments

log = logging.getLogger(__name__)

PROGRESS = tuple(State)[: tuple(State).index(State.ROLLING_BACK)]
"""The states of a deploy that goes well, in order."""


class RunningStep:
    """One step at work: its record as it grows, and the fence in front of its effects.

    Args:
        deployments: what may be done to the model's deployments.
        record: the deployment as last read.
        goal: the state that the step is to reach.

    Attributes:
        unanswered: flips that got no answer, for the record: see Deployment.
        ended: Tritons that ended, for the record: see Deployment.
    """

    def __init__(self, deployments: Deployments, record: Deployment, goal: State) -> None:
        self.deployments = deployments
        self.folder = deployments.folder
        self.record = record
        self.unanswered: Mapping[str, str] = {}
        self.ended: Mapping[str, str] = {}
        self._goal = goal
        self._renewed_s = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the step has something to do: a retry after its success, or an unchanged version, has not."""
        state = self.record.state
        return state is not State.UNCHANGED and PROGRESS.index(state) < PROGRESS.index(self._goal)

    @property
    def serving(self) -> Fleet:
        """The model's Tritons."""
        return self.deployments.serving()

    def keep_lease(self) -> None:
        """Renew the lease; raises Superseded when the deployment lost it."""
        self.deployments.keep_lease(self.record.deploy_id)
        self._renewed_s = time.monotonic()

    def keep_lease_in_time(self) -> None:
        """Renew the lease when a third of it has passed since the last time, for work that comes by here often; see keep_lease."""
        if time.monotonic() - self._renewed_s > self.deployments.settings.lease_s / 3:
            self.keep_lease()

    def reached(self, state: State | None = None, **facts: Any) -> None:
        """Record a state, by default the step's goal, with what came with it; same errors as Deployments.move."""
        self.record = self.deployments.move(self.record, state or self._goal, failure=None, **facts)

    def note(self, **facts: Any) -> None:
        """Record facts that leave the state as it is; same errors as Deployments.move."""
        noted = replace(self.record, failure=None, **facts)
        self.record = self.folder.journal.append(noted, self.record)

    def refuse_outdated(self) -> None:
        """Raise Superseded when the release that the deployment builds on is no longer the last one."""
        live = self.folder.releases.latest()
        if live and live.generation != self.record.base_generation:
            raise Superseded(
                f"Version {live.active_version} of {self.folder.model} was committed since this deploy began.",
                hint="It serves. Start a new deploy if you still want yours.",
            )

    def failed(self, name: str, error: BaseException) -> Superseded | None:
        """Tell the user of an error, and the record.

        Returns:
            What the error comes from, when somebody else rolls the deployment back: what the step relied on is gone then.
        """
        failure = self.deployments.failure(name, error)
        log.error("%s failed: %s Still true: %s", name, failure.error, self.deployments.what_serves())
        noted = replace(
            self.record,
            failure=failure,
            unanswered={**self.record.unanswered, **self.unanswered},
            ended={**self.record.ended, **self.ended},
        )
        try:
            self.folder.journal.append(noted, self.record)
        except Superseded as superseded:
            return superseded if self.deployments.is_given_up(self.record.deploy_id) else None
        except DeployError as unrecorded:
            # The step's own error is what the user has to see, also when a full disk takes no note of it.
            log.warning("the record does not say so: %s", unrecorded)
        return None
