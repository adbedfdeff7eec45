"""Asks a candidate, on its one Triton, and stops for good when the candidate is lost.

A candidate that passed its smoke test may still end a Triton. So it is asked on one Triton only. The
gateway sends it nothing more after that Triton has ended while it had a request of the candidate, or when
that Triton does not have the candidate any more: a request of another gateway may have ended it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ...triton_deploy.rules.names import engine_name
from ..http.background import BackgroundTasks
from ..http.errors import Absent, GatewayError, Interrupted
from ..http.logs import log
from .candidate_metrics import ABSENT, ENDED
from .pool import Reply
from .upstream import Tritons

Count: TypeAlias = Callable[[str, int, str], None]
"""Counts a request to a candidate: model, version, outcome."""

_WHY = {
    ENDED: "the connection ended while its Triton had a request of it. The watch over the canary ends the deploy at its next look.",
    ABSENT: "its Triton can't be reached or does not have it any more, as after a restart.",
}


@dataclass(frozen=True)
class Candidate:
    """A candidate that is to get a request.

    Attributes:
        deploy_id: its deployment.
        version: its version.
        at: address of its Triton, see ``Tritons.ask_candidate``.
    """

    deploy_id: str
    version: int
    at: str


class CandidateClient:
    """Asks candidates within a time limit.

    Args:
        tritons: the servers.
        timeout_s: longest wait of a client or a shadow for an answer, seconds.
        late_s: longest wait for a late answer, seconds.
        max_late: most late answers that are awaited at once.
    """

    def __init__(self, tritons: Tritons, timeout_s: float, late_s: float, max_late: int) -> None:
        self._tritons = tritons
        self._timeout_s = timeout_s
        self._late_s = late_s
        self._max_late = max_late
        self._late = BackgroundTasks()
        # Model and deployment: a new step of the same canary must not bring the candidate back.
        self._left: set[tuple[str, str]] = set()

    def has_left(self, model: str, deploy_id: str) -> bool:
        """Whether a deployment's candidate gets nothing more from this gateway."""
        return (model, deploy_id) in self._left

    def leave(self, model: str, candidate: Candidate, error: Interrupted | Absent) -> str:
        """Send a candidate nothing more from this gateway; return the outcome for metrics."""
        outcome = ENDED if isinstance(error, Interrupted) else ABSENT
        left = (model, candidate.deploy_id)
        if left not in self._left:
            self._left.add(left)
            # Absence is no error: a candidate that was rolled back is unloaded before every gateway knows.
            log.log(
                logging.ERROR if outcome == ENDED else logging.WARNING,
                "%s: candidate %s of deployment %s gets nothing more from this gateway: %s",
                model,
                candidate.version,
                candidate.deploy_id,
                _WHY[outcome],
            )
        return outcome

    async def ask(self, model: str, candidate: Candidate, headers: bytes, body: bytes, count: Count) -> Reply:
        """Ask a candidate.

        Args:
            model: public model name.
            candidate: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.
            count: counts a late request whose candidate is lost.

        Raises:
            TimeoutError: no answer within the time limit.
            Interrupted, Absent, Unavailable: as Tritons.ask_candidate.
        """
        version = candidate.version
        path = f"/v2/models/{engine_name(model, version)}/versions/{version}/infer"
        asking = asyncio.create_task(self._tritons.ask_candidate(path, headers, body, candidate.at))
        in_time: set[asyncio.Task[Reply]] = set()
        try:
            in_time, _ = await asyncio.wait((asking,), timeout=self._timeout_s)
        finally:
            if not in_time:
                self._await_late(model, candidate, asking, count)
        if not in_time:
            raise TimeoutError
        return asking.result()

    async def stop(self) -> None:
        """Give up the late answers."""
        await self._late.stop()

    def _await_late(
        self, model: str, candidate: Candidate, asking: asyncio.Task[Reply], count: Count
    ) -> None:
        """Wait for an answer that is no longer needed: a slow request may still end its Triton."""
        if len(self._late) >= self._max_late:
            asking.cancel()
            asking.add_done_callback(_close)
        else:
            self._late.start(self._see_its_end(model, candidate, asking, count))

    async def _see_its_end(
        self, model: str, candidate: Candidate, asking: asyncio.Task[Reply], count: Count
    ) -> None:
        try:
            async with asyncio.timeout(self._late_s):
                (await asking).close()
        except (Interrupted, Absent) as error:
            count(model, candidate.version, self.leave(model, candidate, error))
        except (GatewayError, TimeoutError):
            pass


def _close(asking: asyncio.Task[Reply]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        asking.result().close()
