"""The receiver of MLflow's webhooks, an ASGI application: answers a delivery when Airflow has its run."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from ..triton_deploy.errors import DeployError
from ..triton_deploy.settings import Settings
from . import signature
from .airflow import CONNECTIONS, Airflow, Outcome
from .errors import Malformed, Refused, TooLarge, TooSlow
from .logs import log
from .moves import Move, read_event, why_not
from .once import Once
from .settings import EventSettings
from .webhook import PATH, Webhooks

REMEMBERED = 10_000
"""Number of answered deliveries in memory. Airflow itself recognizes the run id of a forgotten delivery."""
TRY_AGAIN_S = 20
"""``Retry-After`` of a failed delivery, seconds.

MLflow 3.17 repeats a delivery three times. Without the header all tries end within 8 s, and a restart of
Airflow takes longer.
"""
REGISTER_PAUSE_S = 5.0
BODY_TIMEOUT_S = 10.0
READY_S = 5.0
"""Pause between two questions to Airflow about readiness, seconds."""
READY_WAIT_S = 1.0
"""Longest wait of a caller for a question under way, seconds; the caller then gets the last answer."""
STALE_S = 60.0
"""Oldest answer that is repeated while Airflow is silent, seconds."""


def create_app(settings: EventSettings, mlflow: Settings | None = None) -> FastAPI:
    """Return the receiver.

    Args:
        settings: see EventSettings.
        mlflow: where the webhook is registered, if ``settings.url`` is set; from the environment by default.

    Raises:
        Misconfigured: there is no secret, or a setting is wrong.
    """
    receiver = Receiver(settings)
    # Readiness has its own client: a delivery must not wait for a login that an unsigned caller caused.
    readiness = Readiness(Airflow(settings).why_not_ready)
    registration = Registration(settings, mlflow or Settings.from_env()) if settings.url else None

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registering = asyncio.create_task(registration.run()) if registration else None
        try:
            yield
        finally:
            if registering:
                registering.cancel()
            receiver.close()

    app = FastAPI(
        title="Alias events",
        version="1",
        description="Takes MLflow's webhooks and has Airflow deploy what an alias was set to.",
        lifespan=lifespan,
        redoc_url=None,
    )

    @app.post(PATH, response_class=Response)
    async def deliver(request: Request) -> Response:
        """Take a delivery of MLflow's webhooks; 200 says that Airflow has its run, or that it needs none."""
        return await receiver.answer(request)

    @app.get("/health/live", response_class=Response)
    async def live() -> Response:
        """Whether the process runs."""
        return _json({"live": True})

    @app.get("/health/ready", response_class=Response)
    async def ready() -> Response:
        """Whether a move would be deployed, as Airflow lately said, and why not."""
        reason = (registration.reason if registration else "") or await readiness.reason()
        return _json({"ready": not reason, "reason": reason or None}, 503 if reason else 200)

    return app


class Readiness:
    """Remembers whether Airflow would run a deploy, so that unsigned callers can't flood Airflow.

    Args:
        ask: returns the reason why no deploy could be run now, or an empty text; called in a thread.
        clock_s: a monotonic clock, seconds.
    """

    def __init__(self, ask: Callable[[], str], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock_s = ask, clock_s
        self._reason = ""
        self._asked_s = self._answered_s = -math.inf
        self._question: asyncio.Task[None] | None = None

    async def reason(self) -> str:
        """Return the reason why no deploy could be run, or an empty text, after READY_WAIT_S at most."""
        if self._question is None and self._clock_s() - self._asked_s >= READY_S:
            self._question = asyncio.create_task(self._look())
        if self._question is not None:
            await asyncio.wait({self._question}, timeout=READY_WAIT_S)
        if self._clock_s() - self._answered_s >= STALE_S:
            return "Airflow has not answered yet."
        return self._reason

    async def _look(self) -> None:
        try:
            self._reason = await asyncio.to_thread(self._ask)
            self._answered_s = self._clock_s()
        finally:
            # A failed question is not repeated at once either.
            self._asked_s = self._clock_s()
            self._question = None


class Receiver:
    """Answers deliveries: checks each one, and has Airflow deploy its move.

    Args:
        settings: see EventSettings.
    """

    def __init__(self, settings: EventSettings) -> None:
        self.airflow = Airflow(settings)
        # Only signed deliveries use these threads: readiness and registration use the default ones.
        self._threads = ThreadPoolExecutor(CONNECTIONS, "delivery")
        self._settings = settings
        self._secrets = settings.secrets
        self._allowed = settings.allowed
        self._once: Once[Outcome] = Once(REMEMBERED)

    def close(self) -> None:
        """End each thread after its current request to Airflow."""
        self._threads.shutdown(wait=False)

    async def answer(self, request: Request) -> Response:
        """Answer a delivery, also a malformed or forged one."""
        try:
            body = await _body(request, self._settings.max_body_bytes)
            delivery_id = signature.check(
                request.headers,
                body,
                self._secrets,
                now_s=time.time(),
                tolerance_s=self._settings.tolerance_s,
            )
            move = read_event(body)
        except Refused as error:
            log.warning(
                "refused a delivery: %s",
                error,
                extra={"fields": {"client": request.client.host if request.client else ""}},
            )
            return _json({"error": str(error)}, error.status, {"Connection": "close"})
        if move is None:
            return _json({"result": "ignored", "reason": "only an alias that is set is deployed"})
        return await self._deploy(move, delivery_id)

    async def _deploy(self, move: Move, delivery_id: str) -> Response:
        about = {"delivery": delivery_id, "model": move.model, "alias": move.alias, "version": move.version}
        reason = why_not(move, self._allowed)
        if reason:
            log.info("ignored a move: %s", reason, extra={"fields": about})
            return _json({"result": "ignored", "reason": reason})
        try:
            outcome, first = await self._once.do(
                delivery_id,
                lambda: asyncio.get_running_loop().run_in_executor(
                    self._threads, self.airflow.deploy, move, delivery_id
                ),
            )
        except DeployError as error:
            log.error("a move is not deployed yet: %s", error, extra={"fields": about})
            return _json({"error": str(error)}, 503, {"Retry-After": str(TRY_AGAIN_S)})
        result = outcome if first else Outcome.DUPLICATE
        log.info("a move: %s", result, extra={"fields": about})
        return _json({"result": result, "run": move.run_id(delivery_id)})


class Registration:
    """Registers the receiver in MLflow, and tries again until MLflow has reached the receiver.

    Args:
        settings: the receiver's address and secret.
        mlflow: MLflow's address and credentials.
    """

    def __init__(self, settings: EventSettings, mlflow: Settings) -> None:
        self._url, self._secret = settings.url, settings.secrets[0]
        self._webhooks = Webhooks(mlflow)
        self.reason = "The webhook is not registered in MLflow yet."

    async def run(self) -> None:
        """Return when MLflow has reached the receiver once."""
        while self.reason:
            try:
                await asyncio.to_thread(self._register)
                self.reason = ""
                log.info("MLflow calls %s when an alias is set", self._url)
            except DeployError as error:
                self.reason = f"The webhook is not registered in MLflow: {error}"
                log.warning("%s", self.reason)
                await asyncio.sleep(REGISTER_PAUSE_S)

    def _register(self) -> None:
        self._webhooks.test(self._webhooks.ensure(self._url, self._secret))


async def _body(request: Request, limit: int) -> bytes:
    """Return the body; raises TooLarge at the first byte beyond the limit, TooSlow after BODY_TIMEOUT_S."""
    pieces, total = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                total += len(piece)
                if total > limit:
                    raise TooLarge(f"The body is larger than {limit} bytes.")
                pieces.append(piece)
    except TimeoutError as error:
        raise TooSlow(f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from error
    except ClientDisconnect as error:
        raise Malformed("The sender went away before its body was complete.") from error
    return b"".join(pieces)


def _json(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, dict(headers or {}), media_type="application/json")
