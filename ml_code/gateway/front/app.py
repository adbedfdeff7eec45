"""Puts the gateway's parts together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ...service import http_protocol as protocol
from ...triton_deploy.settings import Settings
from ..backend import Backend
from ..http.admission import Admission
from ..http.logs import AccessLog
from ..http.metrics import Metrics
from ..predict.prediction import Prediction
from ..settings import GatewaySettings
from ..triton.backend import TritonBackend, TritonMetrics
from .edge import Edge
from .last_minutes import LastMinutes
from .pages import Pages, pages_application

SAMPLE_INTERVAL_S = 5.0


def create_app(settings: GatewaySettings, backend: Backend | None = None) -> ASGIApp:
    """Return the gateway as an ASGI application.

    Args:
        settings: see GatewaySettings.
        backend: runs the models; default: the backend that the settings name.
    """
    admission = Admission(settings.max_concurrency, settings.max_queue, settings.max_buffer_bytes)
    of_tritons = TritonMetrics()
    backend = backend or _backend(settings, admission, of_tritons)
    more = (*of_tritons.all, *protocol.METRICS)
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

    pages = pages_application(Pages(settings, backend, metrics, minutes), settings.repository, lifespan)
    prediction = Prediction(settings, backend, admission)
    edge = Edge(settings, backend, prediction, pages, metrics, access_log)
    return _open_to(settings.cors_origins, edge) if settings.cors_origins else edge


def _backend(settings: GatewaySettings, admission: Admission, metrics: TritonMetrics) -> Backend:
    if settings.backend == "local":
        from ..local.backend import LocalBackend

        return LocalBackend(settings, Settings.from_env(), admission)
    return TritonBackend(settings, admission, metrics)


async def _sample(minutes: LastMinutes, metrics: Metrics) -> None:
    while True:
        # Another worker may be the one that Prometheus scrapes.
        metrics.refresh()
        minutes.take(time.time())
        await asyncio.sleep(SAMPLE_INTERVAL_S)


def _open_to(origins: tuple[str, ...], app: ASGIApp) -> ASGIApp:
    """Let pages of other origins call an application."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Model-Version", "X-Request-Id", "Inference-Header-Content-Length"],
    )
