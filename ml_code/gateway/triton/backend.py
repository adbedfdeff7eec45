"""The backend for production: Triton runs the models, and current.json names the live version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from starlette.types import Receive

from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.canary import Exposure
from ...triton_deploy.rules.schema import Schema
from ..backend import BackendAnswer, Example, Following
from ..http.admission import Admission
from ..http.errors import BackendFailed, GatewayError, Unavailable, UnknownPath, Unprocessable
from ..http.exchange import Exchange
from ..http.logs import log
from ..http.model_states import ModelState
from ..http.repeats import Repeats
from ..settings import GatewaySettings
from ..v2.routes import Route
from ..v2.tensors import binary_request, read_outputs
from .candidate_metrics import CandidateMetrics
from .candidates import Candidates
from .deploy_example import read_example
from .deploy_history import DeployHistory
from .forward import V2Forward
from .predecessor import Predecessor
from .predecessor_metrics import PredecessorMetrics
from .release_follower import Followed, ReleaseFollower
from .upstream import Tritons
from .versions import Versions

_READY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class TritonTarget:
    """One model as a request meets it; Triton's answer names the version that gave it."""

    backend: TritonBackend
    model: str
    version: str
    schema: Schema

    async def infer(self, inputs: Mapping[str, Array], exchange: Exchange) -> BackendAnswer:
        """See Target.infer."""
        return await self.backend.infer(self.model, inputs, exchange)


@dataclass(frozen=True)
class TritonMetrics:
    """Counters of the requests to the Tritons; the gateway shows them with either backend."""

    candidates: CandidateMetrics = field(default_factory=CandidateMetrics)
    repeats: Repeats = field(default_factory=Repeats)
    predecessors: PredecessorMetrics = field(default_factory=PredecessorMetrics)

    @property
    def all(self) -> tuple[MetricWrapperBase, ...]:
        """Every metric, to be registered."""
        return (*self.candidates.all, *self.repeats.all, *self.predecessors.all)


class TritonBackend:
    """Follows the repository and asks the Tritons.

    Args:
        settings: the repository, addresses and limits.
        admission: grants turns.
        metrics: counts requests to candidates and predecessors, and repeats.
    """

    def __init__(self, settings: GatewaySettings, admission: Admission, metrics: TritonMetrics) -> None:
        self._settings = settings
        self._admission = admission
        self._metrics = metrics
        self._root = settings.repository_root
        self._follower = follower = ReleaseFollower(self._root)
        self._tritons = tritons = Tritons(settings.triton_urls, settings.connect_timeout_s, metrics.repeats)
        self._candidates = Candidates(settings, tritons, follower, admission, metrics.candidates)
        self._predecessor = Predecessor(settings, tritons, follower, admission, metrics.predecessors)
        self._versions = Versions(self._tritons, self._candidates, self._predecessor)
        self._v2 = V2Forward(settings, self._tritons, self._follower, admission, self._versions)
        self._history: dict[str, DeployHistory] = {}
        self._examples: dict[str, tuple[int, Example | None]] = {}
        self._following = Following(self._look, settings.poll_interval_s)

    async def start(self) -> None:
        """See Backend.start; returns when every current.json was read once."""
        await self._look()
        self._following.start(first_after_s=self._settings.poll_interval_s)

    async def stop(self) -> None:
        """See Backend.stop."""
        await self._following.stop()
        await self._candidates.stop()
        await self._predecessor.stop()
        self._tritons.close()

    def target(self, model: str) -> TritonTarget:
        """See Backend.target."""
        followed = self._followed(model)
        if followed.schema is None:
            raise Unavailable(f"The signature of {model} can't be read from the model repository.")
        return TritonTarget(self, model, str(followed.release.active_version), followed.schema)

    async def renewed(self, model: str) -> TritonTarget:
        """See Backend.renewed."""
        await self._look()
        return self.target(model)

    async def infer(self, model: str, inputs: Mapping[str, Array], exchange: Exchange) -> BackendAnswer:
        """Ask the Tritons for one answer; raises as Target.infer."""
        body, json_length = binary_request(inputs)
        headers = b"Content-Length: %d\r\nInference-Header-Content-Length: %d\r\n" % (len(body), json_length)
        asked = self._versions.question(model, exchange, headers, body)
        await self._admission.enter_for(exchange)
        try:
            asked_at = time.perf_counter()
            with await self._versions.ask(asked) as reply:
                self._versions.answered(asked, reply, time.perf_counter() - asked_at)
                content = reply.head + b"".join([piece async for piece in reply.rest()])
        except asyncio.CancelledError:
            self._versions.late(asked)
            raise
        finally:
            self._admission.leave()
        if reply.status == 200:
            length = dict(reply.headers).get(b"inference-header-content-length")
            return BackendAnswer(*read_outputs(content, int(length) if length else None))
        text = content[:1000].decode(errors="replace")
        if reply.status == 503 or "unknown model" in text:
            raise Unavailable("No Triton has the model ready. Try again.")
        if reply.status == 400:
            raise Unprocessable(f"The model refuses these inputs: {text}")
        raise BackendFailed(f"The model failed on these inputs: {text}")

    async def v2(self, route: Route, exchange: Exchange, receive: Receive) -> None:
        """See Backend.v2."""
        await self._v2.answer(route, exchange, receive)

    async def not_ready(self, model: str = "") -> str | None:
        """See Backend.not_ready."""
        model = model or self._settings.model
        if self._follower.get(model) is None:
            return f"nothing is live of {model}: no current.json was read"
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                with await self._tritons.ask("GET", f"/v2/models/{model}/ready") as reply:
                    return None if reply.status == 200 else f"no Triton has {model} ready"
        except (GatewayError, TimeoutError):
            return "no Triton can be reached"

    async def not_live(self) -> str | None:
        """See Backend.not_live: a restart of the gateway would mend no failure of a Triton or a file."""
        return None

    async def info(self, model: str) -> dict[str, Any]:
        """See Backend.info."""
        release = self._followed(model).release
        history = await self.history(model)
        return {
            "model": model,
            "version": release.active_version,
            "run_id": release.run_id,
            "alias": release.alias,
            "digest": release.digest,
            "generation": release.generation,
            "since_utc": release.updated_at_utc,
            "backend": "triton",
            "previous_version": release.previous_version,
            "candidate": self._candidate(model),
            "last_failure": next(iter(history["failures"]), None),
        }

    async def history(self, model: str) -> dict[str, Any]:
        """See Backend.history."""
        followed = self._follower.get(model)
        if followed is None and model not in self._follower.deployed:
            raise UnknownPath(f"There is no model {model}.")
        history = self._history.setdefault(model, DeployHistory(self._root, model))
        await asyncio.to_thread(history.look, followed.release.generation if followed else 0)
        return history.to_dict()

    async def example(self, model: str) -> Example | None:
        """See Backend.example; the files of a version never change, so they are read once."""
        version = self._followed(model).release.active_version
        known = self._examples.get(model)
        if known is None or known[0] != version:
            known = version, await asyncio.to_thread(read_example, self._root, model, version)
            self._examples[model] = known
        return known[1]

    def models(self) -> tuple[str, ...]:
        """See Backend.models."""
        return self._follower.deployed

    def in_flight(self) -> int:
        """See Backend.in_flight."""
        return self._tritons.busy

    def states(self) -> Iterator[ModelState]:
        """See Backend.states."""
        now = datetime.now(UTC)
        for model in self._follower.models:
            followed = self._followed(model)
            release = followed.release
            candidate, share, mirrored = _share(self._follower.exposure(model))
            yield ModelState(
                model=model,
                version=release.active_version,
                generation=release.generation,
                release_age_s=(now - datetime.fromisoformat(release.updated_at_utc)).total_seconds(),
                staleness_s=self._follower.staleness_s(model),
                swaps=followed.swaps,
                candidate_version=candidate,
                share_percent=share,
                mirrored_percent=mirrored,
            )

    def _log_candidate(self, model: str, before: Exposure | None) -> None:
        """Log a change of a model's candidate or of its share since ``before``."""
        was, now = _share(before), _share(self._follower.exposure(model))
        if was != now:
            version = now[0]
            if version:
                self._metrics.candidates.begin(model, version)
            log.info("%s: candidate %s answers %s %%, %s %% are mirrored to it", model, *now)

    def _candidate(self, model: str) -> dict[str, Any] | None:
        exposed = self._follower.exposure(model)
        if exposed is None:
            return None
        return {
            "version": exposed.version,
            # Without a secret, the id decides which clients meet the candidate: they must not know it.
            "deploy_id": exposed.deploy_id if exposed.key else "",
            "share_percent": exposed.share_percent,
            "mirrored_percent": exposed.mirrored_percent,
        }

    def _followed(self, model: str) -> Followed:
        followed = self._follower.get(model)
        if followed is None:
            raise UnknownPath(f"There is no live model {model}.")
        return followed

    async def _look(self) -> None:
        await asyncio.to_thread(self._look_in_thread)

    def _look_in_thread(self) -> None:
        before = {model: self._followed(model).release for model in self._follower.models}
        exposed = {model: self._follower.exposure(model) for model in before}
        try:
            self._follower.look()
        except OSError as error:
            # A network file system may fail at any time: the last releases that were read stay.
            log.warning("the model repository can't be listed: %s", error)
        for model in self._follower.models:
            now = self._followed(model).release
            if model not in before or before[model].generation != now.generation:
                self._metrics.predecessors.begin(model, now.active_version, now.previous_version)
                log.info("%s: version %s is live, generation %s", model, now.active_version, now.generation)
            self._log_candidate(model, exposed.get(model))
            self._candidates.look(model)


def _share(exposed: Exposure | None) -> tuple[int, int, int]:
    """Return version, share and mirrored share of a candidate; zeros without one."""
    return (exposed.version, exposed.share_percent, exposed.mirrored_percent) if exposed else (0, 0, 0)
