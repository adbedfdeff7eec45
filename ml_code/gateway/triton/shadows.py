"""Mirrors requests to a candidate after the live version has answered, and compares both answers.

A shadow has no client that waits for it, and is dropped while the gateway is busy.
"""

from __future__ import annotations

import asyncio
import time

from ..http.admission import Admission
from ..http.background import BackgroundTasks
from ..http.errors import Absent, BackendFailed, GatewayError, Interrupted, Unavailable
from ..settings import GatewaySettings
from .candidate_client import Candidate, CandidateClient
from .candidate_metrics import ABSENT, DROPPED, CandidateMetrics
from .comparison import Difference, Sent, Tolerance, Tolerances, compare
from .pool import Reply
from .release_follower import ReleaseFollower


class Shadows:
    """The mirrored requests of this process.

    Args:
        settings: limits and tolerances.
        client: asks the candidates.
        follower: knows whether a candidate is still exposed.
        admission: knows whether requests wait for the live version.
        metrics: counts the outcomes.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        client: CandidateClient,
        follower: ReleaseFollower,
        admission: Admission,
        metrics: CandidateMetrics,
    ) -> None:
        self._client = client
        self._follower = follower
        self._admission = admission
        self._metrics = metrics
        self._timeout_s = settings.canary_timeout_s
        self._max_shadows = settings.max_shadows
        self._tolerances = Tolerances(
            settings.repository, Tolerance(settings.smoke_rtol, settings.smoke_atol)
        )
        self._tasks = BackgroundTasks()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self, model: str, candidate: Candidate, headers: bytes, body: bytes, live: Reply, live_s: float
    ) -> None:
        """Mirror a request, unless the gateway is busy.

        Args:
            model: public model name.
            candidate: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.
            live: the live version's answer.
            live_s: duration of that answer, seconds.
        """
        if len(self._tasks) >= self._max_shadows or self._admission.waiting or not live.complete:
            self._metrics.shadow(model, candidate.version, DROPPED)
            return
        answer = (live.head, live.headers)
        self._tasks.start(self._mirror(model, candidate, headers, body, answer, live_s))

    async def stop(self) -> None:
        """Give up the shadows that have not ended."""
        await self._tasks.stop()

    async def _mirror(
        self, model: str, candidate: Candidate, headers: bytes, body: bytes, live: Sent, live_s: float
    ) -> None:
        began, version = time.perf_counter(), candidate.version
        if self._client.has_left(model, candidate.deploy_id):
            return
        try:
            answer = await self._answer_of(model, candidate, headers, body)
            took_s = time.perf_counter() - began
            # In a thread, so that other requests go on while numpy compares.
            live_version, difference = await asyncio.to_thread(self._compare, model, candidate, live, answer)
        except TimeoutError:
            self._metrics.shadow(model, version, "timeout")
        except (Interrupted, Absent) as error:
            outcome = self._client.leave(model, candidate, error)
            if outcome == ABSENT and await self._is_over(model, candidate):
                outcome = DROPPED
            self._metrics.shadow(model, version, outcome)
        except GatewayError:
            self._metrics.shadow(model, version, "failed")
        else:
            self._metrics.shadow(model, version, "ok")
            times_s = {live_version: live_s, str(version): took_s}
            self._metrics.compared(model, version, difference, times_s)

    async def _answer_of(self, model: str, candidate: Candidate, headers: bytes, body: bytes) -> Sent:
        """Return the candidate's whole answer.

        Raises:
            TimeoutError: no answer within the time limit.
            Interrupted: the connection ended before the answer did.
            Absent, Unavailable: as CandidateClient.ask; the candidate refused the request.
        """
        with await self._client.ask(model, candidate, headers, body, self._metrics.shadow) as reply:
            try:
                async with asyncio.timeout(self._timeout_s):
                    content = reply.head + b"".join([piece async for piece in reply.rest()])
            except BackendFailed as error:
                raise Interrupted(error.message) from error
        if reply.status != 200:
            raise Unavailable("the candidate refused")
        return content, reply.headers

    async def _is_over(self, model: str, candidate: Candidate) -> bool:
        """Whether the deployment has ended: then its engine is unloaded before every gateway knows."""
        await asyncio.to_thread(self._follower.look)
        exposed = self._follower.exposure(model)
        return exposed is None or exposed.deploy_id != candidate.deploy_id

    def _compare(self, model: str, candidate: Candidate, live: Sent, answer: Sent) -> tuple[str, Difference]:
        tolerance = self._tolerances.of(model, candidate.version, candidate.deploy_id)
        return compare(live, answer, tolerance)
