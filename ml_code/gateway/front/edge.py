"""The ASGI application in front: limits, log and metrics of every request, and the short way for inference.

Inference does not go through FastAPI's routing, validation and response objects, which cost
more than forwarding.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from ..backend import Backend
from ..http import clients
from ..http.body import Disconnected
from ..http.errors import GatewayError, NeverAsked, TimedOut, TooSlow, WrongMethod
from ..http.exchange import Exchange
from ..http.keys import Keys
from ..http.logs import AccessLog, log
from ..http.metrics import Metrics
from ..predict.prediction import Prediction
from ..settings import GatewaySettings
from ..v2.routes import route

OPEN_PATHS = frozenset(("/", "/docs", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"))
"""Paths without an API key: probes have no key, and the pages themselves hold no data."""


class Edge:
    """Receives every request.

    Args:
        settings: API keys and time limit.
        backend: answers v2.
        prediction: answers /predict.
        pages: the FastAPI application, for everything else.
        metrics: counts inference requests.
        access_log: logs all requests.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        backend: Backend,
        prediction: Prediction,
        pages: ASGIApp,
        metrics: Metrics,
        access_log: AccessLog,
    ) -> None:
        self._timeout_s = settings.request_timeout_s
        self._keys = Keys(settings.api_key, settings.api_keys, settings.model)
        self._names_client = settings.canary_header.lower().encode()
        self._backend = backend
        self._prediction = prediction
        self._model = settings.model
        self._pages = pages
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        try:
            await self._answer(exchange, receive)
        except GatewayError as error:
            await exchange.refuse(error)
        except Disconnected:
            exchange.outcome = "gone"
        except Exception:
            log.exception("request %s failed", exchange.request_id.decode())
            await exchange.refuse(GatewayError("The gateway failed on this request; its log has the reason."))
        finally:
            duration_s = time.perf_counter() - exchange.began
            if exchange.model:
                # A failure names no version. It counts for the version that was live when the request came.
                version = exchange.version or exchange.live
                client = clients.name_of(scope, self._names_client)
                self._metrics.observe(
                    exchange.model, version, exchange.outcome, duration_s, exchange.rows, client
                )
            self._access_log.write(exchange, duration_s)

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        scope = exchange.scope
        path: str = scope["path"]
        if self._keys and path not in OPEN_PATHS:
            self._keys.check(path, scope["headers"])
        try:
            async with asyncio.timeout(self._timeout_s):
                if path.startswith("/v2"):
                    await self._backend.v2(route(scope["method"], path), exchange, receive)
                elif path == "/predict" or path.startswith("/predict/"):
                    await self._prediction.answer(exchange, receive, self._predicted(scope["method"], path))
                else:
                    scope["gateway"] = exchange
                    await self._pages(scope, receive, exchange.send)
        except TimeoutError as error:
            if exchange.status:
                # The model has answered, and the client reads slowly: no version is to blame.
                raise Disconnected from error
            if exchange.body is not None and not exchange.body.complete:
                raise TooSlow(f"The body did not arrive within {self._timeout_s:g} s.") from error
            if exchange.waiting:
                raise NeverAsked(
                    f"Too many requests wait for the model: this one's turn did not come within {self._timeout_s:g} s. Try again."
                ) from error
            raise TimedOut(f"The model did not answer within {self._timeout_s:g} s.") from error

    def _predicted(self, method: str, path: str) -> str:
        """Return the model that a path of /predict names, or the default model."""
        if method != "POST":
            raise WrongMethod(f"{method} is not served here, POST is.", headers={"Allow": "POST"})
        # A longer path gives a name with a slash, which no model has: the answer is 404.
        return path.removeprefix("/predict").removeprefix("/") or self._model
