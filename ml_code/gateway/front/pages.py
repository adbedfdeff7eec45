"""The paths that FastAPI answers: ``/model-info``, health, metrics, ``/status`` and the page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.types import Lifespan

from ..backend import Backend
from ..http.errors import GatewayError
from ..http.exchange import Exchange
from ..http.metrics import Metrics
from ..settings import GatewaySettings
from .deploy_metrics import DeployMetrics
from .last_minutes import LastMinutes
from .openapi import ERRORS, describe

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    # The page is one file: it runs and loads nothing from elsewhere. No other page may frame it, because
    # that page could trick a user into a click.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_LIVE, _HEALTH = "what is live", "health"
"""Headings of the paths in /docs."""


class Pages:
    """Answers every path except inference.

    The names of the methods and their docstrings are a part of the OpenAPI document.

    Args:
        settings: name the default model.
        backend: runs the models.
        metrics: of this process.
        minutes: the traffic that the page draws.
    """

    def __init__(
        self, settings: GatewaySettings, backend: Backend, metrics: Metrics, minutes: LastMinutes
    ) -> None:
        self._model = settings.model
        self._backend = backend
        self._metrics = metrics
        self._minutes = minutes
        self._page = PAGE.read_bytes()

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route("/model-info", self.info_default, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/model-info/{model}", self.info_model, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/health/live", self.live, responses={503: ERRORS[503]}, tags=[_HEALTH])
        app.add_api_route("/health/ready", self.ready, responses={503: ERRORS[503]}, tags=[_HEALTH])
        app.add_api_route("/metrics", self.prometheus, response_class=Response, tags=[_HEALTH])
        app.add_api_route("/status", self.status, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/", self.root, include_in_schema=False)

    async def info_default(self, request: Request) -> Response:
        """What is live of the default model, since when and from which run, and the last failed deploy."""
        return await self._info(request, self._model)

    async def info_model(self, request: Request, model: str) -> Response:
        """What is live of a model, since when and from which run, and the last failed deploy."""
        return await self._info(request, model)

    async def live(self) -> Response:
        """Whether the process runs; not so when a restart is what could help."""
        reason = await self._backend.not_live()
        return _json({"live": reason is None, "reason": reason}, 200 if reason is None else 503)

    async def ready(self) -> Response:
        """Whether the default model can be asked, and why not."""
        reason = await self._backend.not_ready()
        return _json({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    async def prometheus(self) -> Response:
        """Metrics for Prometheus."""
        self._metrics.refresh()
        text = await asyncio.to_thread(self._metrics.text)
        return Response(text, media_type=METRICS_TYPE)

    async def status(self, request: Request, model: str = "") -> Response:
        """What the page shows: what is live, releases, failures, and the last minutes of traffic."""
        model = model or self._model
        return _json(
            {
                **await self._backend.info(model),
                **await self._backend.history(model),
                "reason": await self._backend.not_ready(),
                "models": sorted(state.model for state in self._backend.states()),
                "minutes": self._minutes.points(),
            }
        )

    async def root(self) -> Response:
        """The page itself."""
        return Response(self._page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def _info(self, request: Request, model: str) -> Response:
        content = await self._backend.info(model)
        exchange: Exchange = request.scope["gateway"]
        exchange.version = str(content["version"] or "")
        reason = await self._backend.not_ready() if model == self._model else None
        return _json({**content, "ready": reason is None, "reason": reason})


class DeployerPage:
    """Answers ``/metrics/deployments``, where there is a model repository.

    Args:
        repository: the model repository.
    """

    def __init__(self, repository: Path) -> None:
        self._metrics = DeployMetrics(repository)

    def add_to(self, app: FastAPI) -> None:
        """Add the route to an application."""
        app.add_api_route("/metrics/deployments", self.deployments, response_class=Response, tags=[_HEALTH])

    async def deployments(self) -> Response:
        """What the deployer's records say, for Prometheus: the same from every gateway on one repository."""
        text = await asyncio.to_thread(self._metrics.text)
        return Response(text, media_type=METRICS_TYPE)


def pages_application(pages: Pages, repository: Path | None, lifespan: Lifespan[FastAPI]) -> FastAPI:
    """Return the FastAPI application.

    Args:
        pages: its routes.
        repository: the model repository, if there is one.
        lifespan: starts and stops the gateway's parts.
    """
    app = FastAPI(
        title="Model gateway",
        version="1",
        description="Serves the committed release and says which one it is. KServe v2 is served below /v2 as well.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.add_exception_handler(GatewayError, _refuse)
    pages.add_to(app)
    if repository is not None:
        DeployerPage(repository).add_to(app)
    describe(app)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer a refusal from within FastAPI in the words that the edge uses."""
    assert isinstance(error, GatewayError)
    exchange: Exchange = request.scope["gateway"]
    content, headers = exchange.refusal(error)
    return _json(content, error.status, headers)


def _json(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, dict(headers or {}), media_type="application/json")
