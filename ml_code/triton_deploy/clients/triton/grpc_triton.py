"""Triton by gRPC: a load over HTTP would hold one of Triton's HTTP threads and stall its clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ...rules.triton_errors import error_of
from ...rules.triton_errors.calls import Call, Doing
from ...rules.triton_errors.row import NotPolled, StillLoaded
from .grpc_proxy import told_with_proxy
from .lifeline import Lifeline, lifeline_to
from .polling import told_apart
from .protocol import Index, Inference, ModelState, Phase, ServerInfo

if TYPE_CHECKING:
    from ...model.smoke_case import Array

_UNLOAD_POLL_S = 0.2
_KNOWS_S = 2.0
"""Longest wait for the index by which a lifeline recognizes the process, seconds."""


class GrpcTriton:
    """A Triton server reached by gRPC.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        call_timeout_s: deadline of the calls without a ``timeout_s`` argument, seconds.
    """

    def __init__(self, url: str, call_timeout_s: float) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.url = url
        self._timeout_s = call_timeout_s
        # By default gRPC waits up to two minutes before it connects again, and reports the old refusal
        # meanwhile. A rollback that is repeated until Triton is back has to see at once that Triton is
        # back.
        arguments = [
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        self._client: Any = InferenceServerClient(url, channel_args=arguments)

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        """See Triton.load."""
        try:
            self.load_once(model, timeout_s, config)
        except NotPolled as error:
            raise told_apart(self, model, config, timeout_s, error) from error

    def load_once(self, model: str, timeout_s: float, config: str | None) -> None:
        """Load a model, without a second look at a failure to poll it.

        Raises:
            NotPolled: Triton does not see the model's folder, can't read it, or refuses its configuration.
            DeployError: see Triton.load.
        """
        self._call(
            Doing(Call.LOADING, model),
            timeout_s,
            lambda: self._client.load_model(model, config=config, client_timeout=timeout_s),
        )

    def unload(self, model: str, timeout_s: float) -> None:
        """See Triton.unload."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            try:
                self._call(
                    Doing(Call.UNLOADING, model),
                    timeout_s,
                    partial(self._client.unload_model, model, client_timeout=left_s),
                )
                return
            except StillLoaded:
                # An abandoned load can end after Triton has unloaded the model and before it checks that
                # nothing is left.
                if time.monotonic() + 2 * _UNLOAD_POLL_S > deadline:
                    raise
            time.sleep(_UNLOAD_POLL_S)

    def loaded(self) -> dict[str, tuple[int, ...]]:
        """See Triton.loaded."""
        return dict(self.index().ready)

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """See Triton.ready_versions."""
        return self.loaded().get(model, ())

    def states(self) -> dict[str, ModelState]:
        """See Triton.states."""
        return dict(self.index().states)

    def index(self) -> Index:
        """See Triton.index."""
        entries = self._index().models
        ready: dict[str, tuple[int, ...]] = {}
        for entry in entries:
            if entry.state == "READY":
                ready[entry.name] = tuple(sorted((*ready.get(entry.name, ()), int(entry.version))))
        states = {
            entry.name: ModelState(Phase(entry.state), entry.reason) for entry in entries if entry.state
        }
        return Index(ready, states)

    def lifeline(self, model: str) -> AbstractContextManager[Lifeline]:
        """See Triton.lifeline."""

        def knows() -> bool:
            # A new connection: on the old one gRPC waits after a failure before it connects again.
            return model in GrpcTriton(self.url, min(self._timeout_s, _KNOWS_S)).states()

        return lifeline_to(self.url, self._timeout_s, knows)

    def about(self) -> ServerInfo:
        """Return the server's description of itself; raises Unavailable when the server does not answer."""
        found = self._call(
            Doing(Call.ABOUT),
            self._timeout_s,
            lambda: self._client.get_server_metadata(client_timeout=self._timeout_s),
        )
        return ServerInfo(found.version, tuple(found.extensions))

    def configuration(self, model: str) -> Mapping[str, Any]:
        """See Triton.configuration."""
        found = self._call(
            Doing(Call.READING, model),
            self._timeout_s,
            lambda: self._client.get_model_config(model, as_json=True, client_timeout=self._timeout_s),
        )
        return cast(Mapping[str, Any], found["config"])

    def is_ready(self) -> bool:
        """Return whether the server calls itself ready; raises Unavailable when it does not answer.

        With strict readiness, one model that could not be loaded makes the whole server not ready.
        """
        ready = self._call(
            Doing(Call.ABOUT),
            self._timeout_s,
            lambda: self._client.is_server_ready(client_timeout=self._timeout_s),
        )
        return bool(ready)

    def folders(self) -> frozenset[str]:
        """Return the names of all folders in the server's repository; raises Unavailable if it is away."""
        return frozenset(entry.name for entry in self._index().models)

    def infer(
        self, model: str, inputs: Mapping[str, Array], timeout_s: float, version: int | None = None
    ) -> Inference:
        """See Triton.infer."""
        from tritonclient.grpc import InferInput
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        started = time.perf_counter()
        result = self._call(
            Doing(Call.ASKING, model),
            timeout_s,
            lambda: self._client.infer(
                model,
                tensors,
                model_version="" if version is None else str(version),
                client_timeout=timeout_s,
            ),
        )
        latency_s = time.perf_counter() - started
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return Inference(int(response.model_version), outputs, latency_s)

    def _index(self) -> Any:
        return self._call(
            Doing(Call.LISTING),
            self._timeout_s,
            lambda: self._client.get_model_repository_index(client_timeout=self._timeout_s),
        )

    def _call(self, doing: Doing, timeout_s: float, action: Callable[[], Any]) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return action()
        except InferenceServerException as error:
            status = error.status() or ""
            told = error_of(self.url, doing, timeout_s, status, error.message() or "")
            raise (told_with_proxy(self.url, told) if status.endswith("UNAVAILABLE") else told) from error
