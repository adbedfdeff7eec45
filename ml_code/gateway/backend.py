"""The interface of a backend, which runs the models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Receive

from ..triton_deploy.model.smoke_case import Array
from ..triton_deploy.rules.schema import Schema
from .http.exchange import Exchange
from .http.model_states import ModelState
from .v2.routes import Route


@dataclass(frozen=True)
class BackendAnswer:
    """The answer of a model: the version that gave it, and arrays by output name."""

    version: str
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class FailedDeploy:
    """A version that did not become live, and why.

    Attributes:
        version: the version.
        step: the step that failed.
        error: its message.
        at_utc: when it failed.
        deploy_id: its deployment; empty with the local backend.
        alias: the alias that was deployed.
        run_id: the MLflow run that made the version.
        actor: the user that asked for the deploy; empty when the deployment's record is gone.
        reason: the user's reason, or empty.
    """

    version: int
    step: str
    error: str
    at_utc: str
    deploy_id: str
    alias: str = ""
    run_id: str = ""
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """A request that a model can answer.

    Attributes:
        body: a body of ``/predict``, as plain JSON values.
        source: where its values come from: ``golden``, ``input_example`` or ``generated``.
    """

    body: Mapping[str, Any]
    source: str


class Target(Protocol):
    """A model as one request meets it: its signature, and a way to ask it."""

    @property
    def version(self) -> str:
        """The version that the schema belongs to."""

    @property
    def schema(self) -> Schema:
        """Inputs and outputs."""

    async def infer(self, inputs: Mapping[str, Array], exchange: Exchange) -> BackendAnswer:
        """Ask the model.

        Args:
            inputs: arrays by input name.
            exchange: the client's request.

        Raises:
            Unprocessable: the model refuses these inputs.
            BackendFailed, Unavailable, Busy: the model can't answer.
        """


class Backend(Protocol):
    """Runs the models."""

    async def start(self) -> None:
        """Begin to follow the live versions."""

    async def stop(self) -> None:
        """Stop following."""

    def target(self, model: str) -> Target:
        """Return the target of a request to ``model``.

        Raises:
            UnknownPath: there is no such model.
            Unavailable: its signature is not known yet.
        """

    async def renewed(self, model: str) -> Target:
        """Look for a new live version at once, and return the target; raises as ``target``."""

    async def v2(self, route: Route, exchange: Exchange, receive: Receive) -> None:
        """Answer a KServe v2 request; raises GatewayError to refuse it."""

    async def not_ready(self, model: str = "") -> str | None:
        """Return why a model, the default one unless it is named, can't be asked; None when it can."""

    async def not_live(self) -> str | None:
        """Return why the process should be restarted, or None."""

    async def info(self, model: str) -> Mapping[str, Any]:
        """Return the content of ``/model-info``, as values that orjson writes; raises UnknownPath."""

    async def history(self, model: str) -> Mapping[str, Any]:
        """Return the past and present of a model's deploys, as values that orjson writes.

        Returns:
            ``releases`` and ``failures``, newest first; ``under_way``, the deploy that has not ended;
            ``bake``, the verdict on the live release, and ``baking``, the end of a bake that goes on. Each
            of these three may be None.

        Raises:
            UnknownPath: the model was never deployed.
        """

    async def example(self, model: str) -> Example | None:
        """Return a request that the model can answer, or None without one; raises as ``target``."""

    def models(self) -> Iterable[str]:
        """Return the names of the models that were ever deployed."""

    def in_flight(self) -> int:
        """Return the number of requests at the models, including those whose answer a client still reads."""

    def states(self) -> Iterable[ModelState]:
        """Return the state of every model in numbers."""


class Following:
    """A task that looks for new live versions at an interval.

    Args:
        look: looks once.
        interval_s: pause between two looks, seconds.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], interval_s: float) -> None:
        self._look = look
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self, first_after_s: float = 0.0) -> None:
        """Begin to look; the first look comes after ``first_after_s`` seconds."""
        self._task = asyncio.create_task(self._follow(first_after_s))

    async def stop(self) -> None:
        """End the task, if it was started."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            await self._look()
            pause_s = self._interval_s
