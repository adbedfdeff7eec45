"""Candidates in the traffic before they are committed: a canary answers some clients, a shadow none.

Clients do not suffer. When a candidate answers with another status than 200, or not in time, the live
version answers the same request, and the candidate's failure is counted.
"""

from __future__ import annotations

import random

from ...triton_deploy.rules.canary import TESTERS_HEADER, Exposure
from ...triton_deploy.rules.names import engine_name
from ..http.admission import Admission
from ..http.errors import Absent, GatewayError, Interrupted
from ..http.exchange import Exchange
from ..settings import GatewaySettings
from .candidate_client import Candidate, CandidateClient
from .candidate_metrics import ENDED, UNPLACED, CandidateMetrics
from .placement import Placement
from .pool import Reply, renamed
from .release_follower import ReleaseFollower
from .shadows import Shadows
from .upstream import Tritons

_NO_CANDIDATES = (None, None)
_TESTERS_HEADER = TESTERS_HEADER.lower().encode()


class Candidates:
    """Decides which requests candidates get, and asks them.

    Args:
        settings: limits, and the header by which clients name themselves.
        tritons: the servers.
        follower: knows each model's candidate, and its share.
        admission: knows whether requests wait for the live version.
        metrics: counts the outcomes.
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
        self._metrics = metrics
        self._placement = Placement(settings.triton_urls, settings.triton_grpc_urls)
        self._header = settings.canary_header.lower().encode()
        self._client = CandidateClient(
            tritons,
            timeout_s=settings.canary_timeout_s,
            late_s=settings.request_timeout_s,
            max_late=settings.max_shadows,
        )
        self._shadows = Shadows(settings, self._client, follower, admission, metrics)

    def look(self, model: str) -> None:
        """Find the Triton of a model's candidate, which gets nothing before; belongs in a thread."""
        exposed = self._follower.exposure(model)
        if exposed is not None:
            self._placement.look(model, exposed)

    def of(self, model: str, exchange: Exchange) -> tuple[Candidate | None, Candidate | None]:
        """Return the candidate that is to answer a request, and the candidate that is to be its shadow."""
        exposed = self._follower.exposure(model)
        if exposed is None or self._client.has_left(model, exposed.deploy_id):
            return _NO_CANDIDATES
        mirrored = random.random() * 100 < exposed.mirrored_percent
        answers = self._answers(exposed, exchange)
        place = self._placement.of(model, exposed)
        if not (mirrored or answers) or place is None:
            return _NO_CANDIDATES
        if place.at is None:
            count = self._metrics.canary_failed if answers else self._metrics.shadow
            count(model, exposed.version, UNPLACED)
            return _NO_CANDIDATES
        candidate = Candidate(exposed.deploy_id, exposed.version, place.at)
        return candidate if answers else None, candidate if mirrored else None

    async def ask(self, model: str, candidate: Candidate, headers: bytes, body: bytes) -> Reply:
        """Ask a candidate on behalf of a client, and the live version if the candidate does not answer.

        Args:
            model: public model name.
            candidate: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.

        Returns:
            The answer, under the model's public name.

        Raises:
            Unavailable, BackendFailed: the live version can't answer either.
        """
        # The candidate may have been lost while this request waited for its turn.
        if self._client.has_left(model, candidate.deploy_id):
            return await self._ask_live(model, headers, body)
        try:
            answered = await self._answer_of(model, candidate, headers, body)
        except (Interrupted, Absent) as error:
            outcome = self._client.leave(model, candidate, error)
            self._metrics.canary_failed(model, candidate.version, outcome)
            return await self._ask_live(model, headers, body, interrupted=outcome == ENDED)
        if answered is not None:
            return answered
        reply = await self._ask_live(model, headers, body)
        # A request on which the live version fails as well is no evidence against the candidate.
        outcome = "failed" if reply.status == 200 else "both"
        self._metrics.canary_failed(model, candidate.version, outcome)
        return reply

    def mirror(
        self, model: str, candidate: Candidate, headers: bytes, body: bytes, live: Reply, live_s: float
    ) -> None:
        """Ask a candidate after the live version has answered; see Shadows.start."""
        self._shadows.start(model, candidate, headers, body, live, live_s)

    async def stop(self) -> None:
        """Give up the shadows and the late answers."""
        await self._shadows.stop()
        await self._client.stop()

    def _answers(self, exposed: Exposure, exchange: Exchange) -> bool:
        """Whether the candidate answers this request: by the tester's key, the client's name, or chance."""
        name = b""
        for header, value in exchange.scope["headers"]:
            if header == _TESTERS_HEADER and exposed.is_for(value):
                return True
            if header == self._header:
                name = name or value
        return exposed.answers(name) if name else random.random() * 100 < exposed.share_percent

    async def _ask_live(self, model: str, headers: bytes, body: bytes, *, interrupted: bool = False) -> Reply:
        return await self._tritons.ask(
            "POST", f"/v2/models/{model}/infer", headers, body, interrupted=interrupted
        )

    async def _answer_of(self, model: str, candidate: Candidate, headers: bytes, body: bytes) -> Reply | None:
        """Return the candidate's answer with status 200, or None; raises Interrupted and Absent."""
        try:
            reply = await self._client.ask(model, candidate, headers, body, self._metrics.canary_failed)
        except (Interrupted, Absent):
            raise
        except (GatewayError, TimeoutError):
            return None
        if reply.status == 200:
            renamed(reply, engine_name(model, candidate.version), model)
            return reply
        reply.close()
        return None
