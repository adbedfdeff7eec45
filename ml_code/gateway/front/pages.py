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
from ..http.errors import GatewayError, UnknownPath
from ..http.exchange import Exchange
from ..http.metrics import Metrics
from ..settings import GatewaySettings
from .deploy_metrics import DeployMetrics
from .html import Html
from .last_minutes import LastMinutes
from .openapi import ERRORS, describe

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SHOWN = 4096
"""Longest body of an example that the page shows, bytes; of a longer one it shows where to get it."""
_LIVE, _HEALTH = "what is live", "health"
"""Headings of the paths in /docs."""
_NO_HISTORY: Mapping[str, Any] = {
    "releases": [],
    "failures": [],
    "under_way": None,
    "bake": None,
    "baking": None,
}


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
        self._links = {
            "mlflow": settings.mlflow_url.rstrip("/"),
            "airflow": settings.airflow_url.rstrip("/"),
            "documents": settings.documents_url,
        }
        self._needs_key = bool(settings.api_key or settings.api_keys)
        self._page, self._docs = Html.read("page"), Html.read("docs")

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route("/model-info", self.info_default, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/model-info/{model}", self.info_model, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/model-info/{model}/example", self.example, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/health/live", self.live, responses={503: ERRORS[503]}, tags=[_HEALTH])
        app.add_api_route("/health/ready", self.ready, responses={503: ERRORS[503]}, tags=[_HEALTH])
        app.add_api_route("/metrics", self.prometheus, response_class=Response, tags=[_HEALTH])
        app.add_api_route("/status", self.status, responses=ERRORS, tags=[_LIVE])
        app.add_api_route("/", self.root, include_in_schema=False)
        app.add_api_route("/docs", self.docs, include_in_schema=False)

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

    async def example(self, request: Request, model: str) -> Response:
        """A body of /predict that the live version can answer, with the inputs of its smoke test."""
        found = await self._backend.example(model)
        if found is None:
            raise UnknownPath(f"The live version of {model} has no inputs that can be shown as an example.")
        return _json(found.body)

    async def status(self, request: Request, model: str = "") -> Response:
        """What the page shows: what is live and under way, releases, failures, and traffic by version."""
        model = model or self._model
        models = {*self._backend.models(), self._model}
        history = await self._backend.history(model) if model in self._backend.models() else _NO_HISTORY
        return _json(
            {
                **await self._live_or_nothing(model),
                **history,
                "reason": await self._backend.not_ready(model),
                "models": sorted(models),
                "minutes": self._minutes.points(model),
                "versions": self._minutes.versions(model),
                "window_s": self._minutes.length_s,
                "example": await self._shown_example(model),
                "needs_key": self._needs_key,
                "links": self._links,
            }
        )

    async def root(self) -> Response:
        """The page itself."""
        return self._page.response()

    async def docs(self) -> Response:
        """The interface, for people."""
        return self._docs.response()

    async def _live_or_nothing(self, model: str) -> Mapping[str, Any]:
        """Return the content of ``/model-info``; with empty fields for a model of which nothing is live."""
        try:
            return await self._backend.info(model)
        except UnknownPath:
            if model != self._model and model not in self._backend.models():
                raise
            return {"model": model, "version": None, "alias": "", "run_id": "", "candidate": None}

    async def _shown_example(self, model: str) -> dict[str, Any] | None:
        """Return the body of an example, null if it is too long for a page, with its size and source."""
        try:
            found = await self._backend.example(model)
        except GatewayError:
            return None
        if found is None:
            return None
        # As text: a browser would round large whole numbers.
        body = orjson.dumps(found.body)
        shown = body.decode() if len(body) <= MOST_SHOWN else None
        return {"body": shown, "bytes": len(body), "source": found.source}

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
        # FastAPI's pages load their scripts from the internet.
        docs_url=None,
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
