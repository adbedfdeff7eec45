"""``POST /predict``: rows of JSON in, labels and probabilities by output name out."""

from __future__ import annotations

from starlette.types import Receive

from ..backend import Backend, BackendAnswer, Target
from ..http.admission import Admission
from ..http.body import Body
from ..http.errors import Unprocessable
from ..http.exchange import Exchange, written
from ..http.strict_json import check_depth, decode
from ..settings import GatewaySettings
from ..v2.tensors import to_json
from .rows import to_tensors


class Prediction:
    """Answers predictions.

    Args:
        settings: limits, and whether NaN may stand for a number.
        backend: runs the models.
        admission: grants memory for bodies.
    """

    def __init__(self, settings: GatewaySettings, backend: Backend, admission: Admission) -> None:
        self._limit = settings.max_json_bytes
        self._depth = settings.max_json_depth
        self._allow_nan = settings.nan_policy == "allow"
        self._backend = backend
        self._admission = admission

    async def answer(self, exchange: Exchange, receive: Receive, model: str) -> None:
        """Answer one request; raises GatewayError to refuse it."""
        exchange.asks(model, self._backend.target(model).version)
        body = exchange.body = Body(receive, exchange.scope["headers"], self._limit, self._admission)
        try:
            text = await body.read()
            check_depth(text, self._depth)
            answered = await self._answered(exchange, model, text)
        finally:
            body.release()
        del text
        # A client that reads slowly holds the memory of its answer.
        with self._admission.holding(len(answered)):
            await exchange.respond_written(200, answered)

    async def _answered(self, exchange: Exchange, model: str, text: bytes) -> bytes:
        answer = await self._ask(exchange, model, decode(text, allow_nan=self._allow_nan))
        exchange.version = answer.version
        outputs = {name: to_json(array) for name, array in answer.outputs.items()}
        return written({"model": model, "version": int(answer.version), "outputs": outputs})

    async def _ask(self, exchange: Exchange, model: str, content: object) -> BackendAnswer:
        target = self._backend.target(model)
        try:
            return await self._infer(exchange, target, content)
        except Unprocessable:
            # After a deploy that changed the signature, it is outdated until the next look at current.json.
            renewed = await self._backend.renewed(model)
            if renewed.version == target.version:
                raise
            return await self._infer(exchange, renewed, content)

    async def _infer(self, exchange: Exchange, target: Target, content: object) -> BackendAnswer:
        try:
            inputs = to_tensors(content, target.schema, allow_nan=self._allow_nan)
            first = next(iter(inputs.values()), None)
            exchange.rows = len(first) if first is not None and first.ndim else 0
            return await target.infer(inputs, exchange)
        except Unprocessable:
            # The version whose signature rejected the request.
            exchange.version = target.version
            raise
