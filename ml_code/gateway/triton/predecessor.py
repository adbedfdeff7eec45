"""Asks the version before the release, while it is warm: for failed requests, and a share of the traffic.

Both are evidence for the bake. A request that fails on both versions is not the release's fault. The share
shows how long answers of the earlier version take at the same time. Clients do not suffer: the release
answers each request that the earlier version does not, and the earlier version's answer to a failed request
is only counted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from ...triton_deploy.rules.canary import is_among
from ...triton_deploy.rules.names import engine_name
from ..http.admission import Admission
from ..http.background import BackgroundTasks
from ..http.errors import GatewayError, Interrupted
from ..http.exchange import Exchange
from ..http.logs import log
from ..settings import GatewaySettings
from .pool import Reply, renamed
from .predecessor_metrics import ALONE, BOTH, SKIPPED, UNKNOWN, PredecessorMetrics
from .release_follower import ReleaseFollower
from .upstream import Tritons, is_failure

ASK_AGAIN_S = 3600.0
"""Age of a release from which its predecessor gets no more failed requests, seconds: any bake is over."""
PAUSE_S = 1.0
"""Shortest time between two repeated requests of one model, seconds."""
MOST_AT_ONCE = 4
"""Most repeated requests at once, in each process: their bodies are in memory."""


class Predecessor:
    """Asks the version before the release, here called the predecessor.

    Args:
        settings: share of the predecessor, and limits.
        tritons: the servers.
        follower: knows the predecessor of each model.
        admission: knows whether requests wait for the release.
        metrics: counts the predecessor's answers.
        clock: a monotonic clock, seconds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        tritons: Tritons,
        follower: ReleaseFollower,
        admission: Admission,
        metrics: PredecessorMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tritons = tritons
        self._follower = follower
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._header = settings.canary_header.lower().encode()
        self._tasks = BackgroundTasks()
        self._next_at: dict[str, float] = {}
        # By model: the generation whose predecessor ended a Triton, and so gets no more requests.
        self._left: dict[str, int] = {}
        self._stopped = False

    def of(self, model: str, exchange: Exchange) -> int | None:
        """Return the predecessor if it is to answer this request, and None if the release is."""
        share = self._settings.baseline_percent
        if not share or self._follower.exposure(model) is not None:
            # The candidate of a canary is compared with the live version alone.
            return None
        version = self._version(model, self._settings.baseline_minutes * 60, for_clients=True)
        return version if version is not None and self._is_chosen(model, exchange, share) else None

    async def ask(self, model: str, version: int, headers: bytes, body: bytes) -> Reply:
        """Ask the predecessor on behalf of a client, and the live version if the predecessor does not answer.

        Args:
            model: public model name.
            version: the predecessor.
            headers: as for Tritons.ask.
            body: the whole body.

        Returns:
            The answer, under the model's public name.

        Raises:
            Unavailable, BackendFailed: the live version can't answer either.
        """
        interrupted = False
        try:
            async with asyncio.timeout(self._settings.canary_timeout_s):
                reply = await self._ask(model, version, headers, body)
            if reply.status == 200:
                renamed(reply, engine_name(model, version), model)
                return reply
            reply.close()
            if is_failure(reply):
                self._metrics.failed(model, version)
        except Interrupted:
            interrupted = True
            self._leave(model, version)
        except (GatewayError, TimeoutError):
            pass
        path = f"/v2/models/{model}/infer"
        return await self._tritons.ask("POST", path, headers, body, interrupted=interrupted)

    def ask_again(self, model: str, headers: bytes, body: bytes, *, timed_out: bool = False) -> None:
        """Repeat a request on which the release failed, on the predecessor, and count the outcome.

        A bounded sample: at most one request each PAUSE_S of a model, and MOST_AT_ONCE at once.

        Args:
            model: public model name.
            headers: as for Tritons.ask.
            body: the whole body.
            timed_out: the release did not answer in time.
        """
        followed, version = self._follower.get(model), self._version(model, ASK_AGAIN_S)
        if followed is None or version is None or self._stopped:
            return
        live, now = followed.release.active_version, self._clock()
        busy = len(self._tasks) >= MOST_AT_ONCE or self._admission.waiting
        if busy or now < self._next_at.get(model, 0.0):
            self._metrics.asked_again(model, live, SKIPPED)
            return
        self._next_at[model] = now + PAUSE_S
        self._tasks.start(self._repeat(model, live, version, headers, body, timed_out=timed_out))

    async def stop(self) -> None:
        """Give up the repeated requests."""
        # Clients' requests that the stop cancels would be repeated otherwise.
        self._stopped = True
        await self._tasks.stop()

    async def _repeat(
        self, model: str, live: int, version: int, headers: bytes, body: bytes, *, timed_out: bool
    ) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                with await self._ask(model, version, headers, body) as reply:
                    outcome = _outcome(reply)
        except TimeoutError:
            # If the release failed at once, a time-out of the predecessor is another kind of failure.
            outcome = BOTH if timed_out else UNKNOWN
        except Interrupted:
            self._leave(model, version)
            outcome = UNKNOWN
        except GatewayError:
            outcome = UNKNOWN
        self._metrics.asked_again(model, live, outcome)

    async def _ask(self, model: str, version: int, headers: bytes, body: bytes) -> Reply:
        """Ask the predecessor's engine, on no second Triton after a failure; raises as Tritons.ask."""
        path = f"/v2/models/{engine_name(model, version)}/versions/{version}/infer"
        return await self._tritons.ask("POST", path, headers, body, candidate=True)

    def _version(self, model: str, younger_than_s: float, *, for_clients: bool = False) -> int | None:
        followed = self._follower.get(model)
        if followed is None or self._left.get(model) == followed.release.generation:
            return None
        return self._follower.predecessor(model, younger_than_s, for_clients=for_clients)

    def _leave(self, model: str, version: int) -> None:
        followed = self._follower.get(model)
        if followed is not None:
            self._left[model] = followed.release.generation
        log.error(
            "%s: version %s, which was live before, gets nothing more from this gateway: the connection ended while its Triton had a "
            "request of it. The release answers all clients. See that Triton's log.",
            model,
            version,
        )

    def _is_chosen(self, model: str, exchange: Exchange, share: int) -> bool:
        headers = exchange.scope["headers"]
        name = next((value for header, value in headers if header == self._header), b"")
        if not name:
            return random.random() * 100 < share
        # A client that names itself gets the same version from every gateway, for the whole time.
        return is_among(name, share, f"before {model}")


def _outcome(reply: Reply) -> str:
    if reply.status == 200:
        return ALONE
    # A refusal tells nothing about the release: the predecessor may have other inputs.
    return BOTH if is_failure(reply) else UNKNOWN
