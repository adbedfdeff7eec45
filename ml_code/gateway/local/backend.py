"""The backend without Triton: the model that an MLflow alias names, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import Receive

from ...triton_deploy.clients.registry import MlflowRegistry, RegisteredVersion, Registry
from ...triton_deploy.errors import DeployError, NotFound
from ...triton_deploy.errors import Unavailable as RegistryUnavailable
from ...triton_deploy.model.smoke_case import Array
from ...triton_deploy.rules.records import utc_text
from ...triton_deploy.rules.schema import Schema
from ...triton_deploy.settings import Settings
from ..backend import BackendAnswer
from ..http.admission import Admission
from ..http.body import Body
from ..http.errors import BackendFailed, Unavailable, UnknownPath
from ..http.exchange import Exchange
from ..http.logs import log
from ..http.metrics import ModelState
from ..settings import GatewaySettings
from ..v2.guard import check_request, rows_of
from ..v2.routes import Route
from . import v2 as local_v2
from .files import fetch
from .models import LocalModel, load

_SHOWN = 20


@dataclass(frozen=True)
class Served:
    """A model that is loaded, and where it came from. Requests keep the one that they began with."""

    registered: RegisteredVersion
    digest: str
    since_utc: str
    model: LocalModel
    backend: LocalBackend

    @property
    def version(self) -> str:
        """See Target.version."""
        return str(self.registered.version)

    @property
    def schema(self) -> Schema:
        """See Target.schema."""
        return self.model.schema

    async def infer(self, inputs: Mapping[str, Array], exchange: Exchange) -> BackendAnswer:
        """See Target.infer."""
        return BackendAnswer(self.version, await self.backend.run(self.model, inputs, exchange))


class LocalBackend:
    """Follows an alias and runs what it names.

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
        self._deploy = deploy_settings
        self._admission = admission
        self._registry = registry or MlflowRegistry(deploy_settings)
        self._served: Served | None = None
        self._previous: int | None = None
        self._failed: RegisteredVersion | None = None
        self._failures: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
        self._history: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
        self._swaps = self._failed_swaps = 0
        self._reason = f"alias {settings.alias} of {settings.model} was not looked up yet"
        self._began = self._looked = time.monotonic()
        self._pool = ThreadPoolExecutor(settings.local_threads, thread_name_prefix="model")
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See Backend.start; returns at once, whatever the alias is."""
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """See Backend.stop."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        self._pool.shutdown(wait=False, cancel_futures=True)

    def target(self, model: str) -> Served:
        """See Backend.target."""
        if model != self._settings.model:
            raise UnknownPath(f"There is no live model {model}.")
        if self._served is None:
            raise Unavailable(f"No model is loaded yet: {self._reason}.")
        return self._served

    async def renewed(self, model: str) -> Served:
        """See Backend.renewed; what a target is asked is computed by itself, so it can't be out of date."""
        return self.target(model)

    async def run(
        self, model: LocalModel, inputs: Mapping[str, Array], exchange: Exchange
    ) -> dict[str, Array]:
        """Compute one answer in a thread; raises as Target.infer."""
        await self._admission.enter_for(exchange)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, model.run, inputs)
        except Exception as error:  # whatever the model raises
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
        served = self.target(route.model or self._settings.model)
        if route.version and route.version != served.version:
            raise UnknownPath(f"Version {route.version} of {route.model} is not what is served.")
        if route.kind == "infer":
            await self._infer(served, route, exchange, receive)
            return
        exchange.version = served.version
        if route.kind == "metadata":
            content = local_v2.metadata(route.model, served.version, served.schema)
        else:
            content = {"ready": True}
        await exchange.respond_json(200, content)

    async def not_ready(self) -> str | None:
        """See Backend.not_ready."""
        return None if self._served else self._reason

    async def not_live(self) -> str | None:
        """See Backend.not_live: an alias that does not come is reported by ending, so that somebody looks."""
        waited_s = time.monotonic() - self._began
        late = self._served is None and waited_s > self._deploy.mlflow.alias_wait_s
        return f"waited {self._deploy.mlflow.alias_wait_s:g} s: {self._reason}" if late else None

    async def info(self, model: str) -> dict[str, Any]:
        """See Backend.info."""
        if model != self._settings.model:
            raise UnknownPath(f"There is no live model {model}.")
        served = self._served
        return {
            "model": model,
            "version": served.registered.version if served else None,
            "run_id": served.registered.run_id if served else "",
            "alias": self._settings.alias,
            "digest": served.digest if served else "",
            "generation": None,
            "since_utc": served.since_utc if served else None,
            "backend": "local",
            "previous_version": self._previous,
            "last_failure": self._failures[0] if self._failures else None,
        }

    async def history(self, model: str) -> dict[str, Any]:
        """See Backend.history: what this process saw."""
        if model != self._settings.model:
            raise UnknownPath(f"There is no live model {model}.")
        return {"releases": list(self._history), "failures": list(self._failures)}

    def in_flight(self) -> int:
        """See Backend.in_flight."""
        return self._admission.running

    def states(self) -> Iterator[ModelState]:
        """See Backend.states."""
        if self._served is not None:
            since = datetime.fromisoformat(self._served.since_utc)
            yield ModelState(
                model=self._settings.model,
                version=self._served.registered.version,
                generation=0,
                release_age_s=(datetime.now(UTC) - since).total_seconds(),
                staleness_s=time.monotonic() - self._looked,
                swaps=self._swaps,
                failed_swaps=self._failed_swaps,
            )

    async def _infer(self, served: Served, route: Route, exchange: Exchange, receive: Receive) -> None:
        settings = self._settings
        exchange.asks(route.model, served.version)
        body = exchange.body = Body(
            receive, exchange.scope["headers"], settings.max_body_bytes, self._admission
        )
        try:
            text, headers = await self._answered(served, route, exchange, body)
        finally:
            body.release()
        # A client that reads slowly keeps this much.
        with self._admission.holding(len(text)):
            await exchange.respond(200, text, headers)

    async def _answered(
        self, served: Served, route: Route, exchange: Exchange, body: Body
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
        answer = await served.infer(local_v2.inputs_of(request, binary, served.schema), exchange)
        exchange.version = answer.version
        text, json_length = local_v2.response(request, route.model, answer.version, answer.outputs)
        headers = [(b"content-length", str(len(text)).encode())]
        if json_length is None:
            headers.append((b"content-type", b"application/json"))
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((b"inference-header-content-length", str(json_length).encode()))
        return text, headers

    async def _follow(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(self._deploy.mlflow.alias_poll_s)

    async def _look(self) -> None:
        """Look at the alias once, and bring what it names if that is new."""
        model, alias = self._settings.model, self._settings.alias
        try:
            registered = await asyncio.to_thread(self._registry.resolve, model, alias)
        except DeployError as error:
            if not isinstance(error, (NotFound, RegistryUnavailable)) or self._reason != error.message:
                log.warning("alias %s of %s can't be followed: %s", alias, model, error)
            self._reason = error.message
            return
        except Exception:
            log.exception("alias %s of %s can't be followed", alias, model)
            return
        self._looked = time.monotonic()
        live = self._served.registered if self._served else None
        if registered in (live, self._failed):
            return
        if live and registered.version == live.version:
            return
        await self._swap(registered)

    async def _swap(self, registered: RegisteredVersion) -> None:
        """Load a version beside the one that serves, and put it in its place when it answers."""
        started = datetime.now(UTC)
        try:
            served = await asyncio.to_thread(self._bring, registered)
        except (
            Exception
        ) as error:  # DeployError, or whatever a flavor's library raises: the old one goes on serving
            self._failed_swaps += 1
            self._reason = f"version {registered.version} can't be loaded: {error}"
            self._failures.appendleft(
                {
                    "version": registered.version,
                    "step": "load",
                    "error": str(error),
                    "at_utc": utc_text(started),
                    "deploy_id": "",
                }
            )
            log.error("%s: %s", self._settings.model, self._reason)
            if not (isinstance(error, DeployError) and error.retryable):
                # The same files fail again; only another version is tried.
                self._failed = registered
            return
        if self._served is not None:
            self._swaps += 1
            self._previous = self._served.registered.version
        self._served, self._failed = served, None
        self._history.appendleft(
            {
                "active_version": registered.version,
                "generation": None,
                "updated_at_utc": served.since_utc,
                "run_id": registered.run_id,
                "alias": self._settings.alias,
                "actor": "alias",
                "reason": "",
            }
        )
        log.info("%s: version %s is live", self._settings.model, registered.version)

    def _bring(self, registered: RegisteredVersion) -> Served:
        parent = self._settings.cache_dir
        folder = Path(tempfile.mkdtemp(prefix=f"{self._settings.model}-{registered.version}-", dir=parent))
        try:
            fetched = fetch(registered, folder, self._deploy)
            # A request has a thread of the pool to itself.
            model = load(fetched, self._deploy, threads=1)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Some flavors read files when they are asked: these stay until nobody has the model, or the process ends.
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        return Served(registered, fetched.digest, utc_text(datetime.now(UTC)), model, self)
