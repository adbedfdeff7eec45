"""The backend without Triton: the model that an MLflow alias names, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.types import Receive

from ...triton_deploy.clients.registry import MlflowRegistry, Registry
from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.schema import Schema
from ...triton_deploy.settings import Settings
from ..backend import BackendAnswer, Example, Following
from ..http.admission import Admission
from ..http.body import Body
from ..http.errors import BackendFailed, Unavailable, UnknownPath
from ..http.exchange import Exchange
from ..http.model_states import ModelState
from ..settings import GatewaySettings
from ..v2.guard import check_request, rows_of
from ..v2.routes import Route
from . import v2 as local_v2
from .alias_follower import AliasFollower, Served
from .models import LocalModel


@dataclass(frozen=True)
class LocalTarget:
    """The model that a request began with; the request keeps it while another one goes live."""

    backend: LocalBackend
    served: Served

    @property
    def version(self) -> str:
        """See Target.version."""
        return self.served.version

    @property
    def schema(self) -> Schema:
        """See Target.schema."""
        return self.served.model.schema

    async def infer(self, inputs: Mapping[str, Array], exchange: Exchange) -> BackendAnswer:
        """See Target.infer."""
        return BackendAnswer(self.version, await self.backend.run(self.served.model, inputs, exchange))


class LocalBackend:
    """Runs the model that an alias names.

    Args:
        settings: model, alias, threads.
        deploy_settings: the deployer's, for MLflow and S3.
        admission: grants turns and memory.
        registry: default: MLflow's.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        deploy_settings: Settings,
        admission: Admission,
        registry: Registry | None = None,
    ) -> None:
        self._settings = settings
        self._alias_wait_s = deploy_settings.mlflow.alias_wait_s
        self._admission = admission
        self._alias = AliasFollower(settings, deploy_settings, registry or MlflowRegistry(deploy_settings))
        self._began = time.monotonic()
        self._pool = ThreadPoolExecutor(settings.local_threads, thread_name_prefix="model")
        self._following = Following(self._alias.look, deploy_settings.mlflow.alias_poll_s)

    async def start(self) -> None:
        """See Backend.start; returns at once, whether or not the alias can be resolved."""
        self._following.start()

    async def stop(self) -> None:
        """See Backend.stop."""
        await self._following.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def target(self, model: str) -> LocalTarget:
        """See Backend.target."""
        self._check_model(model)
        if self._alias.served is None:
            raise Unavailable(f"No model is loaded yet: {self._alias.reason}.")
        return LocalTarget(self, self._alias.served)

    async def renewed(self, model: str) -> LocalTarget:
        """See Backend.renewed; a target here holds its own model, so its signature can't be out of date."""
        return self.target(model)

    async def run(
        self, model: LocalModel, inputs: Mapping[str, Array], exchange: Exchange
    ) -> dict[str, Array]:
        """Compute one answer in a thread; raises as Target.infer."""
        await self._admission.enter_for(exchange)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, model.run, inputs)
        except Exception as error:  # any error of the model
            raise BackendFailed(f"The model failed on these inputs: {str(error)[:1000]}") from error
        finally:
            self._admission.leave()

    async def v2(self, route: Route, exchange: Exchange, receive: Receive) -> None:
        """See Backend.v2."""
        if route.kind == "server_metadata":
            await exchange.respond_json(
                200, {"name": "gateway", "version": "1", "extensions": ["binary_tensor_data"]}
            )
            return
        if route.kind == "server_live":
            await exchange.respond_json(200, {"live": True})
            return
        target = self.target(route.model or self._settings.model)
        if route.version and route.version != target.version:
            raise UnknownPath(f"Version {route.version} of {route.model} is not what is served.")
        if route.kind == "infer":
            await self._infer(target, route, exchange, receive)
            return
        exchange.version = target.version
        if route.kind == "metadata":
            content = local_v2.metadata(route.model, target.version, target.schema)
        else:
            content = {"ready": True}
        await exchange.respond_json(200, content)

    async def not_ready(self, model: str = "") -> str | None:
        """See Backend.not_ready."""
        return None if self._alias.served else self._alias.reason

    async def not_live(self) -> str | None:
        """See Backend.not_live; a restart makes a long wait for the alias visible."""
        waited_s = time.monotonic() - self._began
        late = self._alias.served is None and waited_s > self._alias_wait_s
        return f"waited {self._alias_wait_s:g} s: {self._alias.reason}" if late else None

    async def info(self, model: str) -> dict[str, Any]:
        """See Backend.info."""
        self._check_model(model)
        served, failures = self._alias.served, self._alias.failures
        return {
            "model": model,
            "version": served.registered.version if served else None,
            "run_id": served.registered.run_id if served else "",
            "alias": self._settings.alias,
            "digest": served.digest if served else "",
            "generation": None,
            "since_utc": served.since_utc if served else None,
            "backend": "local",
            "previous_version": self._alias.previous_version,
            "last_failure": failures[0] if failures else None,
        }

    async def history(self, model: str) -> dict[str, Any]:
        """See Backend.history: the changes that this process saw."""
        self._check_model(model)
        return {
            "releases": list(self._alias.releases),
            "failures": list(self._alias.failures),
            "under_way": None,
            "bake": None,
            "baking": None,
        }

    async def example(self, model: str) -> Example | None:
        """See Backend.example."""
        self.target(model)
        return self._alias.served.example if self._alias.served else None

    def models(self) -> tuple[str, ...]:
        """See Backend.models."""
        return (self._settings.model,)

    def in_flight(self) -> int:
        """See Backend.in_flight."""
        return self._admission.running

    def states(self) -> Iterator[ModelState]:
        """See Backend.states."""
        alias = self._alias
        if alias.served is not None:
            since = datetime.fromisoformat(alias.served.since_utc)
            yield ModelState(
                model=self._settings.model,
                version=alias.served.registered.version,
                generation=0,
                release_age_s=(datetime.now(UTC) - since).total_seconds(),
                staleness_s=time.monotonic() - alias.looked_at,
                swaps=alias.swaps,
                failed_swaps=alias.failed_swaps,
            )

    def _check_model(self, model: str) -> None:
        if model != self._settings.model:
            raise UnknownPath(f"There is no live model {model}.")

    async def _infer(self, target: LocalTarget, route: Route, exchange: Exchange, receive: Receive) -> None:
        exchange.asks(route.model, target.version)
        body = exchange.body = Body(
            receive, exchange.scope["headers"], self._settings.max_body_bytes, self._admission
        )
        try:
            text, headers = await self._answered(target, route, exchange, body)
        finally:
            body.release()
        # A client that reads slowly holds the memory of its answer.
        with self._admission.holding(len(text)):
            await exchange.respond(200, text, headers)

    async def _answered(
        self, target: LocalTarget, route: Route, exchange: Exchange, body: Body
    ) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the body and the headers of an answer."""
        settings = self._settings
        content = await body.read()
        request = check_request(
            content,
            body.json_length,
            len(content),
            max_json_bytes=settings.max_json_bytes,
            max_depth=settings.max_json_depth,
            allow_nan=settings.nan_policy == "allow",
        )
        exchange.rows = rows_of(request)
        binary = memoryview(content)[len(content) if body.json_length is None else body.json_length :]
        answer = await target.infer(local_v2.inputs_of(request, binary, target.schema), exchange)
        exchange.version = answer.version
        text, json_length = local_v2.response(request, route.model, answer.version, answer.outputs)
        return text, local_v2.headers(len(text), json_length)
