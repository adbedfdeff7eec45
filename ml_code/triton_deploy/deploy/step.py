"""One step of a deployment at work: its record as it grows, its lease, and the fence before its effects."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import DeployError, Superseded
from ..fleet.fleet import Fleet
from ..rules.deployment import Deployment, State
from ..rules.moments import utc_text

if TYPE_CHECKING:
    from .deployments import Deployments

log = logging.getLogger(__name__)

TOLD_LIVE = {"told_live": True}
"""Marks log lines that a terminal leaves out: it shows the steps while they run, and the outcome."""

PROGRESS = tuple(State)[: tuple(State).index(State.ROLLING_BACK)]
"""The states of a deploy that goes well, in order."""


class RunningStep:
    """One step at work.

    Args:
        deployments: the model's deployments.
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
        """Whether the step has work to do: a retry after its success has none, nor an unchanged version."""
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
        """Renew the lease when a third of it has passed since the last renewal; for long work."""
        if time.monotonic() - self._renewed_s > self.deployments.settings.lease_s / 3:
            self.keep_lease()

    def renewing(self, report: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Return a report of a transfer's progress that renews the lease in time.

        Args:
            report: called with bytes done and bytes in all.
        """

        def renew_and_report(done: int, total: int) -> None:
            self.keep_lease_in_time()
            report(done, total)

        return renew_and_report

    def was_released(self) -> bool:
        """Whether the version was live before; raises Superseded when the deployment lost its lease."""
        self.keep_lease()
        return self.folder.releases.releases_version(self.record.version)

    @property
    def settle_s(self) -> float:
        """How long clients meet the version on one Triton alone, seconds; 0 if they have met it before."""
        releases = self.folder.releases
        met = self.record.canary is not None or releases.releases_version(self.record.version)
        return 0.0 if met or releases.latest() is None else self.deployments.settings.triton.settle_s

    @contextlib.contextmanager
    def flipping(self) -> Iterator[Fleet]:
        """Give the Tritons for a flip; a failure before the decision puts the public name back at once."""
        fleet = self.serving
        self.unanswered, self.ended = fleet.unanswered, fleet.ended
        try:
            yield fleet
        except BaseException:
            if not self.deployments.is_decided(self.record.deploy_id):
                self.deployments.last.try_to_restore()
            raise

    def reached(self, state: State | None = None, **facts: Any) -> None:
        """Record a state, by default the step's goal, with its facts; raises what Deployments.move raises."""
        self.record = self.deployments.move(self.record, state or self._goal, failure=None, **facts)

    def note(self, **facts: Any) -> None:
        """Record facts that leave the state as it is; raises the errors of Deployments.move."""
        noted = replace(self.record, failure=None, **facts)
        self.record = self.folder.journal.append(noted, self.record)

    def note_given(self, url: str) -> None:
        """Record that a Triton is about to meet the candidate alone: see Deployment.given."""
        self.note(given={url: utc_text(self.deployments.clock())})

    def refuse_outdated(self) -> None:
        """Raise Superseded when the release that the deployment builds on is no longer the last one."""
        live = self.folder.releases.latest()
        if live and live.generation != self.record.base_generation:
            raise Superseded(
                f"Version {live.active_version} of {self.folder.model} was committed since this deploy began.",
                hint="It serves. Start a new deploy if you still want yours.",
            )

    def failed(self, name: str, error: BaseException) -> Superseded | None:
        """Log an error and record it.

        Returns:
            Superseded when another process rolls the deployment back: the error comes from that.
        """
        failure = self.deployments.failure(name, error)
        serves = self.deployments.last.what_serves()
        # A DeployError is what the command ends with: a terminal shows it there.
        told = TOLD_LIVE if isinstance(error, DeployError) else None
        log.error("%s failed: %s Still true: %s", name, failure.error, serves, extra=told)
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
            # The user has to see the step's own error, also when a full disk does not take the record.
            log.warning("the record does not say so: %s", unrecorded)
        return None
