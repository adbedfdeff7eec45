"""Candidates that share in the traffic before they are committed: a canary answers some clients, a shadow none.

No client is worse off for it: whatever a candidate answers but 200, or not in time, live answers the same request, and the candidate's
failure is counted. What a shadow is asked is asked after live has answered, and left out when there is enough to do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..triton_deploy.canary import Exposure
from ..triton_deploy.golden import Array
from ..triton_deploy.names import engine_name
from .admission import Admission
from .candidate_metrics import CandidateMetrics
from .errors import BackendFailed, GatewayError, Interrupted, Unavailable
from .exchange import Exchange
from .pool import Reply
from .release_follower import ReleaseFollower
from .settings import GatewaySettings
from .upstream import Tritons
from .v2_tensors import read_outputs

_Sent: TypeAlias = tuple[bytes, list[tuple[bytes, bytes]]]
"""An answer's body and headers."""

_NOBODY = (None, None)
_FARTHEST = 1e6
_FLOOR = 1e-6
"""Below this, a value is taken for zero when a difference is put in relation to it."""


@dataclass(frozen=True)
class Difference:
    """How far two answers to one request are apart.

    Attributes:
        absolute: the largest difference of two numbers; 1e6 at most, also where only one of them is a number.
        relative: the largest one in relation to what live says; 1e6 at most.
        disagree: whether the labels differ in some row.
    """

    absolute: float
    relative: float
    disagree: bool


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
        self._timeout_s = settings.canary_timeout_s
        self._max_shadows = settings.max_shadows
        self._header = settings.canary_header.lower().encode()
        self._shadows: set[asyncio.Task[None]] = set()

    def of(self, model: str, exchange: Exchange) -> tuple[Exposure | None, Exposure | None]:
        """Return the candidate that is to answer this request, if one is, and the one that is to be asked the same after live."""
        exposed = self._follower.exposure(model)
        if exposed is None:
            return _NOBODY
        mirrored = random.random() * 100 < exposed.mirrored_percent
        return exposed if self._answers(exposed, exchange) else None, exposed if mirrored else None

    async def ask(self, model: str, exposed: Exposure, headers: bytes, body: bytes) -> Reply:
        """Ask a candidate in a client's name, and live if it does not answer.

        Args:
            model: public model name.
            exposed: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.

        Returns:
            The answer, under the model's public name.

        Raises:
            Unavailable, BackendFailed: live can't answer either.
        """
        interrupted = False
        try:
            given = await self._answer_of(model, exposed.version, headers, body)
        except Interrupted:
            given, interrupted = None, True
        if given is not None:
            return given
        reply = await self._tritons.ask(
            "POST", f"/v2/models/{model}/infer", headers, body, interrupted=interrupted
        )
        # What live can't answer either does not tell against the candidate.
        outcome = "failed" if reply.status == 200 else "both"
        self._metrics.canary_failed(model, exposed.version, outcome)
        return reply

    def mirror(
        self, model: str, exposed: Exposure, headers: bytes, body: bytes, live: Reply, live_s: float
    ) -> None:
        """Ask a candidate what live has answered, later and in nobody's name; dropped when there is enough to do.

        Args:
            model: public model name.
            exposed: the candidate.
            headers: as for Tritons.ask.
            body: the whole body.
            live: live's answer, complete.
            live_s: how long Triton took for it, seconds.
        """
        if len(self._shadows) >= self._max_shadows or self._admission.waiting or not live.complete:
            self._metrics.shadow(model, exposed.version, "dropped")
            return
        answer = (live.head, live.headers)
        task = asyncio.create_task(self._shadow(model, exposed.version, headers, body, answer, live_s))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def stop(self) -> None:
        """Give up what is mirrored now."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    def _answers(self, exposed: Exposure, exchange: Exchange) -> bool:
        key = next((value for name, value in exchange.scope["headers"] if name == self._header), b"")
        return exposed.answers(key) if key else random.random() * 100 < exposed.share_percent

    async def _answer_of(self, model: str, version: int, headers: bytes, body: bytes) -> Reply | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._ask(model, version, headers, body)
        except Interrupted:
            raise
        except (GatewayError, TimeoutError):
            return None
        if reply.status == 200:
            _rename(reply, model, version)
            return reply
        reply.close()
        return None

    async def _ask(self, model: str, version: int, headers: bytes, body: bytes) -> Reply:
        path = f"/v2/models/{engine_name(model, version)}/versions/{version}/infer"
        return await self._tritons.ask("POST", path, headers, body, candidate=True)

    async def _shadow(
        self,
        model: str,
        version: int,
        headers: bytes,
        body: bytes,
        live: _Sent,
        live_s: float,
    ) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                with await self._ask(model, version, headers, body) as reply:
                    content = reply.head + b"".join([piece async for piece in reply.rest()])
            if reply.status != 200:
                raise Unavailable("the candidate refused")
            took_s = time.perf_counter() - began
            # In a thread: numpy gives other requests their turn meanwhile.
            live_version, difference = await asyncio.to_thread(_compare, live, (content, reply.headers))
        except TimeoutError:
            self._metrics.shadow(model, version, "timeout")
        except GatewayError:
            self._metrics.shadow(model, version, "failed")
        else:
            self._metrics.shadow(model, version, "ok")
            times_s = {live_version: live_s, str(version): took_s}
            self._metrics.compared(model, version, difference, times_s)


def differences(live: Mapping[str, Array], candidate: Mapping[str, Array]) -> Difference:
    """Return how far a candidate's answer is from live's; outputs that only the candidate has do not count.

    Labels are outputs of whole numbers, texts or truth values; without any, the largest value of each row of the others.

    Args:
        live: arrays by output name.
        candidate: the same.

    Raises:
        BackendFailed: an output is missing or has another shape.
    """
    absolute = relative = 0.0
    labels, guesses = [], []
    for name, expected in live.items():
        given = candidate.get(name)
        if given is None or given.shape != expected.shape:
            raise BackendFailed(f"The candidate's output {name} is missing or has another shape.")
        if expected.dtype.kind != "f":
            labels.append(bool((expected != given).any()))
            continue
        absolute = max(absolute, _gap(expected, given, np.ones_like(expected)))
        relative = max(relative, _gap(expected, given, np.maximum(np.abs(expected), _FLOOR)))
        if expected.ndim > 1 and expected.shape[-1] > 1:
            guesses.append(bool((expected.argmax(-1) != given.argmax(-1)).any()))
    return Difference(absolute, relative, any(labels or guesses))


def _gap(expected: Array, given: Array, unit: Array) -> float:
    """Return the largest difference in units; 0 without values."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(expected.astype(np.float64) - given.astype(np.float64)) / unit
    gap[(expected == given) | (np.isnan(expected) & np.isnan(given))] = 0
    farthest = np.nan_to_num(gap, nan=_FARTHEST, posinf=_FARTHEST)
    return float(min(farthest.max(), _FARTHEST)) if gap.size else 0.0


def _compare(live: _Sent, candidate: _Sent) -> tuple[str, Difference]:
    version, expected = _read(*live)
    return version, differences(expected, _read(*candidate)[1])


def _read(content: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[str, Mapping[str, Array]]:
    length = dict(headers).get(b"inference-header-content-length")
    return read_outputs(content, int(length) if length else None)


def _rename(reply: Reply, model: str, version: int) -> None:
    """Put the public name in the place of the engine's, and the lengths right: a client need not know who answered.

    Quotes in an id, which the client chooses and which comes before, are escaped: it can't be taken for the name.
    """
    said, meant = (f'"model_name":"{name}"'.encode() for name in (engine_name(model, version), model))
    if said not in reply.head:
        return
    reply.head = reply.head.replace(said, meant, 1)
    less = len(said) - len(meant)
    reply.headers = [
        (name, b"%d" % (int(value) - less))
        if name in (b"content-length", b"inference-header-content-length")
        else (name, value)
        for name, value in reply.headers
    ]
