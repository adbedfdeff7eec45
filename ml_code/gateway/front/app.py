"""Puts the parts together, and the paths that FastAPI answers: what is live, health, metrics, the page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ...service import http_protocol as protocol
from ...triton_deploy.settings import Settings
from ..backend import Backend
from ..http.admission import Admission
from ..http.errors import GatewayError
from ..http.exchange import Exchange
from ..http.logs import AccessLog
from ..http.metrics import LastMinutes, Metrics
from ..http.repeats import Repeats
from ..predict.prediction import Prediction
from ..settings import GatewaySettings
from ..triton.candidate_metrics import CandidateMetrics
from ..triton.predecessor import PredecessorMetrics
from .deploy_metrics import DeployMetrics
from .edge import Edge
from .openapi import ERRORS, describe

SAMPLE_INTERVAL_S = 5.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    # The page is one file: nothing from elsewhere runs in it or is loaded by it.
    # And it is no part of another's page, in which a click could be meant for something else.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def create_app(settings: GatewaySettings, backend: Backend | None = None) -> ASGIApp:
    """Return the gateway as an ASGI application.

    Args:
        settings: see GatewaySettings.
        backend: who runs the models; default: what the settings name.
    """
    admission = Admission(settings.max_concurrency, settings.max_queue, settings.max_buffer_bytes)
    of_candidates = CandidateMetrics()
    repeats = Repeats()
    of_predecessors = PredecessorMetrics()
    backend = backend or _backend(settings, admission, of_candidates, repeats, of_predecessors)
    more = (*of_candidates.all, *repeats.all, *of_predecessors.all, *protocol.METRICS)
    metrics = Metrics(backend.states, lambda: admission.waiting, backend.in_flight, more)
    access_log = AccessLog(settings.access_log)
    minutes = LastMinutes(metrics.sums)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        sampling = asyncio.create_task(_sample(minutes, metrics))
        try:
            yield
        finally:
            sampling.cancel()
            await backend.stop()
            access_log.flush()

    pages = _pages(settings, backend, metrics, minutes, lifespan)
    prediction = Prediction(settings, backend, admission)
    edge: ASGIApp = Edge(settings, backend, prediction, pages, metrics, access_log)
    if settings.cors_origins:
        edge = CORSMiddleware(
            edge,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Model-Version", "X-Request-Id", "Inference-Header-Content-Length"],
        )
    return edge


def _backend(
    settings: GatewaySettings,
    admission: Admission,
    metrics: CandidateMetrics,
    repeats: Repeats,
    of_predecessors: PredecessorMetrics,
) -> Backend:
    if settings.backend == "local":
        from ..local.backend import LocalBackend

        return LocalBackend(settings, Settings.from_env(), admission)
    from ..triton.backend import TritonBackend

    return TritonBackend(settings, admission, metrics, repeats, of_predecessors)


async def _sample(minutes: LastMinutes, metrics: Metrics) -> None:
    while True:
        # Another worker may be the one that is scraped.
        metrics.refresh()
        minutes.take(time.time())
        await asyncio.sleep(SAMPLE_INTERVAL_S)


def _pages(
    settings: GatewaySettings,
    backend: Backend,
    metrics: Metrics,
    minutes: LastMinutes,
    lifespan: Any,
) -> FastAPI:
    pages = FastAPI(
        title="Model gateway",
        version="1",
        description="Serves the committed release and says which one it is. KServe v2 is served below /v2 as well.",
        lifespan=lifespan,
        redoc_url=None,
    )
    pages.add_exception_handler(GatewayError, _refuse)

    async def info(request: Request, model: str) -> Response:
        content = dict(await backend.info(model))
        exchange: Exchange = request.scope["gateway"]
        exchange.version = str(content["version"] or "")
        reason = await backend.not_ready() if model == settings.model else None
        return _json({**content, "ready": reason is None, "reason": reason})

    @pages.get("/model-info", responses=ERRORS, tags=["what is live"])
    async def info_default(request: Request) -> Response:
        """What is live of the default model, since when and from which run, and the last failed deploy."""
        return await info(request, settings.model)

    @pages.get("/model-info/{model}", responses=ERRORS, tags=["what is live"])
    async def info_model(request: Request, model: str) -> Response:
        """What is live of a model, since when and from which run, and the last failed deploy."""
        return await info(request, model)

    @pages.get("/health/live", responses={503: ERRORS[503]}, tags=["health"])
    async def live() -> Response:
        """Whether the process runs; not so when a restart is what could help."""
        reason = await backend.not_live()
        return _json({"live": reason is None, "reason": reason}, 200 if reason is None else 503)

    @pages.get("/health/ready", responses={503: ERRORS[503]}, tags=["health"])
    async def ready() -> Response:
        """Whether the default model can be asked, and why not."""
        reason = await backend.not_ready()
        return _json({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    @pages.get("/metrics", tags=["health"], response_class=Response)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        metrics.refresh()
        text = await asyncio.to_thread(metrics.text)
        return Response(text, media_type=METRICS_TYPE)

    if settings.repository is not None:
        deploys = DeployMetrics(settings.repository)

        @pages.get("/metrics/deployments", tags=["health"], response_class=Response)
        async def deployments() -> Response:
            """What the deployer's records say, for Prometheus: the same from every gateway on one repository."""
            text = await asyncio.to_thread(deploys.text)
            return Response(text, media_type=METRICS_TYPE)

    @pages.get("/status", responses=ERRORS, tags=["what is live"])
    async def status(request: Request, model: str = "") -> Response:
        """What the page shows: what is live, releases, failures, and the last minutes of traffic."""
        model = model or settings.model
        content = dict(await backend.info(model))
        history = await backend.history(model)
        reason = await backend.not_ready()
        models = sorted(state.model for state in backend.states())
        shown = {**content, **history, "reason": reason, "models": models, "minutes": minutes.points()}
        return _json(shown)

    page = PAGE.read_bytes()

    @pages.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    describe(pages)
    return pages


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
