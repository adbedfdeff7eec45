"""Candidates that share in the traffic before they are committed: a canary answers some clients, a shadow none.

No client is worse off for it: whatever a candidate answers but 200, or not in time, live answers the same request, and the candidate's
failure is counted. What a shadow is asked is asked after live has answered, and left out when there is enough to do.

A candidate that passed its smoke test may still end a Triton. So it is asked on one Triton only, and nothing more when that ended while it
had a request of it, or does not have it any more, which is what another gateway's request leaves behind.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ...triton_deploy.rules.canary import TESTERS_HEADER, Exposure
from ...triton_deploy.rules.names import engine_name
from ..http.admission import Admission
from ..http.errors import Absent, BackendFailed, GatewayError, Interrupted, Unavailable
from ..http.exchange import Exchange
from ..http.logs import log
from ..settings import GatewaySettings
from .candidate_metrics import ABSENT, ENDED, UNPLACED, CandidateMetrics
from .comparison import Difference, Sent, Tolerance, Tolerances, compare
from .placement import Placement
from .pool import Reply, renamed
from .release_follower import ReleaseFollower
from .upstream import Tritons

_Count: TypeAlias = Callable[[str, int, str], None]
"""Counts a model's version's request by its outcome."""

_NOBODY = (None, None)
_WHY = {
    ENDED: "the connection ended while its Triton had a request of it. The watch over the canary ends the deploy at its next look.",
    ABSENT: "its Triton can't be reached or does not have it any more, as after a restart.",
}
_OF_TESTERS = TESTERS_HEADER.lower().encode()
DROPPED = "dropped"


@dataclass(frozen=True)
class Candidate:
    """A candidate that is to have a request.

    Attributes:
        deploy_id: its deployment.
        version: its version.
        at: where it is asked, see ``Tritons.ask_candidate``.
    """

    deploy_id: str
    version: int
    at: str


class Candidates:
    """Asks candidates.

    Args:
        settings: limits, and the header by which clients name themselves.
        tritons: the servers.
        follower: says which candidate gets what.
        admission: says whether live has enough to do.
        metrics: told what became of each request.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        tritons: Tritons,
        follower: ReleaseFollower,
        admission: Admission,
        metrics: CandidateMetrics,
    ) -> None:
        self._tritons = tritons
        self._follower = follower
        self._admission = admission
        self._metrics = metrics
        self._placement = Placement(settings.triton_urls, settings.triton_grpc_urls)
        self._timeout_s = settings.canary_timeout_s
        self._late_s = settings.request_timeout_s
        self._max_shadows = settings.max_shadows
        self._header = settings.canary_header.lower().encode()
        self._tolerances = Tolerances(
            settings.repository, Tolerance(settings.smoke_rtol, settings.smoke_atol)
        )
        self._shadows: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        # By deployment, of which there is one a candidate: a new step of the same must not begin it all anew.
        self._left: set[tuple[str, str]] = set()

    def look(self, model: str) -> None:
        """Find out where a model's candidate is asked; belongs in a thread. Before, it gets nothing."""
        exposed = self._follower.exposure(model)
        if exposed is not None:
            self._placement.look(model, exposed)

    def of(self, model: str, exchange: Exchange) -> tuple[Candidate | None, Candidate | None]:
        """Return the candidate that is to answer this request, if one is, and the one that is to be asked the same after live."""
        exposed = self._follower.exposure(model)
        if exposed is None or (model, exposed.deploy_id) in self._left:
            return _NOBODY
        mirrored = random.random() * 100 < exposed.mirrored_percent
        answers = self._answers(exposed, exchange)
        place = self._placement.of(model, exposed)
        if not (mirrored or answers) or place is None:
            return _NOBODY
        if place.at is None:
            count = self._metrics.canary_failed if answers else self._metrics.shadow
            count(model, exposed.version, UNPLACED)
            return _NOBODY
        candidate = Candidate(exposed.deploy_id, exposed.version, place.at)
        return candidate if answers else None, candidate if mirrored else None

    async def ask(self, model: str, candidate: Candidate, headers: bytes, body: bytes) -> Reply:
        """Ask a candidate in a client's name, and live if it does not answer.

        Args:
            model: public model name.
            candidate: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.

        Returns:
            The answer, under the model's public name.

        Raises:
            Unavailable, BackendFailed: live can't answer either.
        """
        lost = ""
        # It may have been left while this request waited for its turn.
        if (model, candidate.deploy_id) in self._left:
            return await self._ask_live(model, headers, body)
        try:
            given = await self._answer_of(model, candidate, headers, body)
        except (Interrupted, Absent) as error:
            given, lost = None, _lost(error)
        if given is not None:
            return given
        if lost:
            self._leave(model, candidate, lost)
            self._metrics.canary_failed(model, candidate.version, lost)
            return await self._ask_live(model, headers, body, interrupted=lost == ENDED)
        reply = await self._ask_live(model, headers, body)
        # What live can't answer either does not tell against the candidate.
        outcome = "failed" if reply.status == 200 else "both"
        self._metrics.canary_failed(model, candidate.version, outcome)
        return reply

    def mirror(
        self, model: str, candidate: Candidate, headers: bytes, body: bytes, live: Reply, live_s: float
    ) -> None:
        """Ask a candidate what live has answered, later and in nobody's name; dropped when there is enough to do.

        Args:
            model: public model name.
            candidate: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.
            live: live's answer, complete.
            live_s: how long Triton took for it, seconds.
        """
        if len(self._shadows) >= self._max_shadows or self._admission.waiting or not live.complete:
            self._metrics.shadow(model, candidate.version, DROPPED)
            return
        answer = (live.head, live.headers)
        task = asyncio.create_task(self._shadow(model, candidate, headers, body, answer, live_s))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def stop(self) -> None:
        """Give up what is mirrored now, and what came late."""
        tasks = [*self._shadows, *self._late]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answers(self, exposed: Exposure, exchange: Exchange) -> bool:
        name = b""
        for header, value in exchange.scope["headers"]:
            if header == _OF_TESTERS and exposed.is_for(value):
                return True
            if header == self._header:
                name = name or value
        return exposed.answers(name) if name else random.random() * 100 < exposed.share_percent

    def _leave(self, model: str, candidate: Candidate, lost: str) -> None:
        """Send a candidate nothing more from here."""
        left = (model, candidate.deploy_id)
        if left not in self._left:
            self._left.add(left)
            # One that was rolled back is unloaded before every gateway knows: that is no news.
            log.log(
                logging.ERROR if lost == ENDED else logging.WARNING,
                "%s: candidate %s of deployment %s gets nothing more from this gateway: %s",
                model,
                candidate.version,
                candidate.deploy_id,
                _WHY[lost],
            )

    async def _ask_live(self, model: str, headers: bytes, body: bytes, *, interrupted: bool = False) -> Reply:
        return await self._tritons.ask(
            "POST", f"/v2/models/{model}/infer", headers, body, interrupted=interrupted
        )

    async def _answer_of(self, model: str, candidate: Candidate, headers: bytes, body: bytes) -> Reply | None:
        try:
            reply = await self._ask(model, candidate, headers, body, self._metrics.canary_failed)
        except (Interrupted, Absent):
            raise
        except (GatewayError, TimeoutError):
            return None
        if reply.status == 200:
            renamed(reply, engine_name(model, candidate.version), model)
            return reply
        reply.close()
        return None

    async def _ask(
        self, model: str, candidate: Candidate, headers: bytes, body: bytes, count: _Count
    ) -> Reply:
        """Ask a candidate; raises TimeoutError, and as Tritons.ask_candidate."""
        version = candidate.version
        path = f"/v2/models/{engine_name(model, version)}/versions/{version}/infer"
        asking = asyncio.create_task(self._tritons.ask_candidate(path, headers, body, candidate.at))
        in_time: set[asyncio.Task[Reply]] = set()
        try:
            in_time, _ = await asyncio.wait((asking,), timeout=self._timeout_s)
        finally:
            if not in_time:
                self._wait_on(model, candidate, asking, count)
        if not in_time:
            raise TimeoutError
        return asking.result()

    def _wait_on(self, model: str, candidate: Candidate, asking: asyncio.Task[Reply], count: _Count) -> None:
        """Wait for an answer that nobody needs any more: what takes long may end its Triton yet."""
        if len(self._late) >= self._max_shadows:
            asking.cancel()
            asking.add_done_callback(_close)
            return
        task = asyncio.create_task(self._see_its_end(model, candidate, asking, count))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _see_its_end(
        self, model: str, candidate: Candidate, asking: asyncio.Task[Reply], count: _Count
    ) -> None:
        try:
            async with asyncio.timeout(self._late_s):
                (await asking).close()
        except (Interrupted, Absent) as error:
            self._leave(model, candidate, _lost(error))
            count(model, candidate.version, _lost(error))
        except (GatewayError, TimeoutError):
            pass

    async def _shadow(
        self,
        model: str,
        candidate: Candidate,
        headers: bytes,
        body: bytes,
        live: Sent,
        live_s: float,
    ) -> None:
        began, version = time.perf_counter(), candidate.version
        if (model, candidate.deploy_id) in self._left:
            return
        try:
            with await self._ask(model, candidate, headers, body, self._metrics.shadow) as reply:
                content = await self._rest_of(reply)
            if reply.status != 200:
                raise Unavailable("the candidate refused")
            took_s = time.perf_counter() - began
            # In a thread: numpy gives other requests their turn meanwhile.
            live_version, difference = await asyncio.to_thread(
                self._compare, model, candidate, live, (content, reply.headers)
            )
        except TimeoutError:
            self._metrics.shadow(model, version, "timeout")
        except Interrupted as error:
            self._leave(model, candidate, _lost(error))
            self._metrics.shadow(model, version, ENDED)
        except Absent as error:
            self._leave(model, candidate, _lost(error))
            over = await self._is_over(model, candidate)
            self._metrics.shadow(model, version, DROPPED if over else ABSENT)
        except GatewayError:
            self._metrics.shadow(model, version, "failed")
        else:
            self._metrics.shadow(model, version, "ok")
            times_s = {live_version: live_s, str(version): took_s}
            self._metrics.compared(model, version, difference, times_s)

    async def _is_over(self, model: str, candidate: Candidate) -> bool:
        """Whether somebody has ended the deployment: its engine is unloaded then before every gateway knows, and nobody's fault."""
        await asyncio.to_thread(self._follower.look)
        exposed = self._follower.exposure(model)
        return exposed is None or exposed.deploy_id != candidate.deploy_id

    def _compare(self, model: str, candidate: Candidate, live: Sent, answer: Sent) -> tuple[str, Difference]:
        tolerance = self._tolerances.of(model, candidate.version, candidate.deploy_id)
        return compare(live, answer, tolerance)

    async def _rest_of(self, reply: Reply) -> bytes:
        """Return a whole body; raises TimeoutError, and Interrupted when the connection ends before it does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return reply.head + b"".join([piece async for piece in reply.rest()])
        except BackendFailed as error:
            raise Interrupted(error.message) from error


def _lost(error: Interrupted | Absent) -> str:
    return ENDED if isinstance(error, Interrupted) else ABSENT


def _close(asking: asyncio.Task[Reply]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        asking.result().close()
