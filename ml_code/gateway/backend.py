"""What the gateway asks of whoever runs the models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Receive

from ..triton_deploy.model.smoke_case import Array
from ..triton_deploy.rules.schema import Schema
from .http.exchange import Exchange
from .http.metrics import ModelState
from .v2.routes import Route


@dataclass(frozen=True)
class BackendAnswer:
    """What a model said: the version that did, and arrays by output name."""

    version: str
    outputs: Mapping[str, Array]


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
            exchange: whose request it is.

        Raises:
            Unprocessable: it refuses these inputs.
            BackendFailed, Unavailable, Busy: it can't answer.
        """


class Backend(Protocol):
    """Who runs the models."""

    async def start(self) -> None:
        """Begin to follow what is live."""

    async def stop(self) -> None:
        """Stop following."""

    def target(self, model: str) -> Target:
        """Return what a request to ``model`` meets now.

        Raises:
            UnknownPath: there is no such model.
            Unavailable: its signature is not known yet.
        """

    async def renewed(self, model: str) -> Target:
        """Look at what is live now rather than at the next interval, and return the target; raises as ``target``."""

    async def v2(self, route: Route, exchange: Exchange, receive: Receive) -> None:
        """Answer a KServe v2 request; raises GatewayError when it is refused."""

    async def not_ready(self) -> str | None:
        """Return why the default model can't be asked, or None when it can."""

    async def not_live(self) -> str | None:
        """Return why the process should be restarted, or None."""

    async def info(self, model: str) -> Mapping[str, Any]:
        """Return what ``/model-info`` says; raises UnknownPath."""

    async def history(self, model: str) -> Mapping[str, Any]:
        """Return ``releases`` and ``failures`` of a model, newest first; raises UnknownPath."""

    def in_flight(self) -> int:
        """Return how many requests the models have now, those included whose answer a client still reads."""

    def states(self) -> Iterable[ModelState]:
        """Return the state of every model in numbers."""
