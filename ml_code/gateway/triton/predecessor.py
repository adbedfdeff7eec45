"""The version that was live before and is still warm: what it makes of requests on which the release failed, and a share of its own.

Both are evidence for the bake. A request that fails on both versions is not the release's fault. And a share of the requests that the
earlier version goes on answering says how long answers take there at the same time. No client is worse off: what the earlier version
does not answer the release answers, and what it says of a failed request nobody gets.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from ...triton_deploy.rules.canary import is_among
from ...triton_deploy.rules.names import engine_name
from ..http.admission import Admission
from ..http.errors import GatewayError, Interrupted
from ..http.exchange import Exchange
from ..http.logs import log
from ..settings import GatewaySettings
from .pool import Reply, renamed
from .release_follower import ReleaseFollower
from .upstream import Tritons, is_failure

ASK_AGAIN_S = 3600.0
"""For so long after a release the version before it is asked what the release failed on, seconds: a bake is over by then."""
PAUSE_S = 1.0
"""Between two requests that are asked again, of one model, seconds."""
MOST_AT_ONCE = 4
"""Requests that are asked again at once, in each process: their bodies are in memory."""

BOTH, ALONE, UNKNOWN, SKIPPED = "both", "alone", "unknown", "skipped"


class PredecessorMetrics:
    """Counts what the version before makes of requests, by model."""

    def __init__(self) -> None:
        labels = ["model", "version"]
        self._asked_again = Counter(
            "gateway_failed_asked_again",
            "Requests on which a release failed, by what the version before it made of them: it failed as well (both), it did not (alone), "
            "it did not say (unknown), or it was not asked, since one a second is enough (skipped).",
            [*labels, "outcome"],
            registry=None,
        )
        self._failures = Counter(
            "gateway_baseline_failures",
            "Requests of its share on which the version before failed; live was asked the same.",
            labels,
            registry=None,
        )

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (self._asked_again, self._failures)

    def begin(self, model: str, version: int, before: int | None) -> None:
        """Show zeros for a release and the version before it: Prometheus sees no increase of a series that begins with its first failure."""
        if before is not None:
            self._failures.labels(model, before)
        for outcome in (BOTH, ALONE, UNKNOWN, SKIPPED):
            self._asked_again.labels(model, version, outcome)

    def asked_again(self, model: str, version: int, outcome: str) -> None:
        """Count a request on which a release failed."""
        self._asked_again.labels(model, version, outcome).inc()

    def failed(self, model: str, before: int) -> None:
        """Count a client's request on which the version before failed."""
        self._failures.labels(model, before).inc()


class Predecessor:
    """Asks the version that was live before.

    Args:
        settings: its share, and limits.
        tritons: the servers.
        follower: says which version that is.
        admission: says whether live has enough to do.
        metrics: told what it made of the release's failures.
        clock: seconds that only go forward.
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
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_at: dict[str, float] = {}
        # Generations, by model, since which it is asked nothing more: it ended a Triton.
        self._left: dict[str, int] = {}
        self._stopped = False

    def of(self, model: str, exchange: Exchange) -> int | None:
        """Return the version that was live before if it is to answer this request, and None if the release is."""
        share = self._settings.baseline_percent
        if not share or self._follower.exposure(model) is not None:
            # Beside a canary that is the next release's: the live version alone is what it is compared with.
            return None
        version = self._version(model, self._settings.baseline_minutes * 60, for_clients=True)
        return version if version is not None and self._is_chosen(model, exchange, share) else None

    async def ask(self, model: str, version: int, headers: bytes, body: bytes) -> Reply:
        """Ask the version that was live before in a client's name, and live if it does not answer.

        Args:
            model: public model name.
            version: that version.
            headers: as for Tritons.ask.
            body: the whole body.

        Returns:
            The answer, under the model's public name.

        Raises:
            Unavailable, BackendFailed: live can't answer either.
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
        """Ask the version that was live before, in nobody's name and later, what the release failed on; a bounded sample.

        Args:
            model: public model name.
            headers: as for Tritons.ask.
            body: the whole body.
            timed_out: the release gave no answer in time.
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
        asking = self._again(model, live, version, headers, body, timed_out=timed_out)
        task = asyncio.create_task(asking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up what is asked again now."""
        # A request that ends only now is cancelled, and would be asked again.
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(
        self, model: str, live: int, version: int, headers: bytes, body: bytes, *, timed_out: bool
    ) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                with await self._ask(model, version, headers, body) as reply:
                    outcome = _outcome(reply)
        except TimeoutError:
            # Slow where the release failed at once is not the same failure.
            outcome = BOTH if timed_out else UNKNOWN
        except Interrupted:
            self._leave(model, version)
            outcome = UNKNOWN
        except GatewayError:
            outcome = UNKNOWN
        self._metrics.asked_again(model, live, outcome)

    async def _ask(self, model: str, version: int, headers: bytes, body: bytes) -> Reply:
        """Ask its engine; one that ends a Triton, or is not there, is not tried on the next. Raises as Tritons.ask."""
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
        # The same on every gateway, and for the whole time: who names itself gets one version.
        return is_among(name, share, f"before {model}")


def _outcome(reply: Reply) -> str:
    if reply.status == 200:
        return ALONE
    # What it refuses, or can't be asked, tells nothing of the release: its inputs may be other ones.
    return BOTH if is_failure(reply) else UNKNOWN
