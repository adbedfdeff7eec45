"""Triton, by gRPC. Never by HTTP: a load over HTTP holds one of Triton's HTTP threads and stalls the clients on it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import Unavailable
from ...rules.triton_errors import Call, Doing, NotPolled, error_of
from ...settings import DNS_PREFIX, Settings
from .grpc_proxy import told_with_proxy
from .lifeline import Lifeline, lifeline_to
from .polling import told_apart

if TYPE_CHECKING:
    from ...model.smoke_case import Array


_STILL_THERE = "versions that are still available"
_UNLOAD_POLL_S = 0.2
_KNOWS_S = 2.0


@dataclass(frozen=True)
class Inference:
    """What an inference gave.

    Attributes:
        version: version that answered, as Triton says.
        outputs: arrays by output name.
        latency_s: seconds from request to answer.
    """

    version: int
    outputs: Mapping[str, Array]
    latency_s: float


@dataclass(frozen=True)
class Index:
    """What a Triton says of the models of its repository.

    Attributes:
        ready: every model that has versions that answer requests, with those versions, ascending.
        states: what became of each model that this process was ever told to load: ``READY``, ``LOADING``, ``UNLOADING``, or
            ``UNAVAILABLE`` with Triton's reason behind it, such as ``UNAVAILABLE: unloaded``.
    """

    ready: Mapping[str, tuple[int, ...]]
    states: Mapping[str, str]

    @property
    def held(self) -> Mapping[str, str]:
        """What Triton has loaded, or on its way in or out, with its state."""
        return {name: state for name, state in self.states.items() if not state.startswith("UNAVAILABLE")}

    @property
    def hanging(self) -> Mapping[str, str]:
        """What Triton neither serves nor has let go, with its state: on its way in or out, for a moment or for good."""
        return {
            name: state for name, state in self.states.items() if state.startswith(("LOADING", "UNLOADING"))
        }


@dataclass(frozen=True)
class ServerInfo:
    """What a Triton says of itself: its version, and the protocol extensions that it has."""

    version: str
    extensions: tuple[str, ...]


class Triton(Protocol):
    """What a deploy asks of one Triton server.

    Every call raises Unavailable when the server does not answer within the call's deadline.
    """

    @property
    def url(self) -> str:
        """Address, for messages."""

    def load(self, model: str, timeout_s: float, config: str | None = None) -> None:
        """Load a model from the repository, or reload it.

        Args:
            model: Triton model name.
            timeout_s: deadline in seconds; Triton goes on loading after it.
            config: configuration in JSON that replaces the file's for this load.

        Raises:
            ArtifactRejected: Triton can't load it; the text is Triton's.
            Unclassified: it is not known why; see triton_errors.
        """

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model; one that is not loaded is fine."""

    def loaded(self) -> dict[str, tuple[int, ...]]:
        """Return every model that has versions that answer requests, with those versions, ascending."""

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """Return the versions of a model that answer requests, ascending."""

    def states(self) -> dict[str, str]:
        """Return what became of each model that this process was ever told to load: see Index."""

    def index(self) -> Index:
        """Return what it says of all models of its repository, in one call."""

    def lifeline(self, model: str) -> AbstractContextManager[Lifeline]:
        """Return a connection that tells later whether the server is still the same process.

        Args:
            model: a model that it is told to load meanwhile, or was before.
        """

    def infer(
        self, model: str, inputs: Mapping[str, Array], timeout_s: float, version: int | None = None
    ) -> Inference:
        """Ask a model, or exactly one version of it.

        Raises:
            NotFound: there is no such model or version.
            ArtifactRejected: the model failed on these inputs; the text is Triton's.
            Unclassified: it is not known why; see triton_errors.
        """


class GrpcTriton:
    """A Triton server reached by gRPC.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        call_timeout_s: deadline of the calls that have none of their own, seconds.
    """

    def __init__(self, url: str, call_timeout_s: float) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.url = url
        self._timeout_s = call_timeout_s
        # gRPC waits up to two minutes before it tries to reach a server again, and reports the old refusal meanwhile: a
        # rollback that is repeated until Triton is back has to see that it is.
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
        """Load a model; what Triton says of it is not looked into any further.

        Raises:
            NotPolled: Triton does not see its folder, can't read it, or refuses its configuration.
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
                    lambda left_s=left_s: self._client.unload_model(model, client_timeout=left_s),
                )
                return
            except Unavailable as error:
                # A load that was given up can end between an unload's work and Triton's look whether it worked.
                if _STILL_THERE not in error.message or time.monotonic() + 2 * _UNLOAD_POLL_S > deadline:
                    raise
            time.sleep(_UNLOAD_POLL_S)

    def loaded(self) -> dict[str, tuple[int, ...]]:
        """See Triton.loaded."""
        return dict(self.index().ready)

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """See Triton.ready_versions."""
        return self.loaded().get(model, ())

    def states(self) -> dict[str, str]:
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
            entry.name: f"{entry.state}: {entry.reason}" if entry.reason else entry.state
            for entry in entries
            if entry.state
        }
        return Index(ready, states)

    def lifeline(self, model: str) -> AbstractContextManager[Lifeline]:
        """See Triton.lifeline."""

        def knows() -> bool:
            # By a connection of its own: after a failure gRPC waits before it tries again.
            return model in GrpcTriton(self.url, min(self._timeout_s, _KNOWS_S)).states()

        return lifeline_to(self.url, self._timeout_s, knows)

    def about(self) -> ServerInfo:
        """Return what the server says of itself; raises Unavailable when it does not answer."""
        found = self._call(
            Doing(Call.ABOUT),
            self._timeout_s,
            lambda: self._client.get_server_metadata(client_timeout=self._timeout_s),
        )
        return ServerInfo(found.version, tuple(found.extensions))

    def is_ready(self) -> bool:
        """Return whether the server calls itself ready; raises Unavailable when it does not answer.

        With strict readiness it does not while one of its models could not be loaded, whatever the others serve.
        """
        ready = self._call(
            Doing(Call.ABOUT),
            self._timeout_s,
            lambda: self._client.is_server_ready(client_timeout=self._timeout_s),
        )
        return bool(ready)

    def folders(self) -> frozenset[str]:
        """Return the name of every folder in its repository, loaded or not; raises Unavailable when it does not answer."""
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

    def _call(self, doing: Doing, timeout_s: float, action: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return action()
        except InferenceServerException as error:
            status = error.status() or ""
            told = error_of(self.url, doing, timeout_s, status, error.message() or "")
            raise (told_with_proxy(self.url, told) if status.endswith("UNAVAILABLE") else told) from error


def staging_of(settings: Settings) -> GrpcTriton | None:
    """Return the staging Triton that the settings name, or None when they name none."""
    url = settings.triton.staging_grpc_url
    return GrpcTriton(url, settings.triton.switch_timeout_s) if url else None


def tritons_of(settings: Settings) -> list[GrpcTriton]:
    """Return the servers that the settings name, those behind a DNS name as it resolves now.

    Raises:
        Unavailable: a name has no address.
    """
    urls = [address for url in settings.triton.grpc_urls for address in _addresses(url)]
    return [GrpcTriton(url, settings.triton.switch_timeout_s) for url in dict.fromkeys(urls)]


def _addresses(url: str) -> list[str]:
    if not url.startswith(DNS_PREFIX):
        return [url]
    name, _, port = url.removeprefix(DNS_PREFIX).rpartition(":")
    try:
        found = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            f"The name {name} in TRITON_DEPLOY_GRPC_URLS has no address: {error.strerror or error}.",
            hint="Check that the Tritons run and that the name is that of a headless service.",
        ) from error
    by_family = {family: sorted({str(at[0]) for f, *_, at in found if f is family}) for family, *_ in found}
    # Where a server has an address of both families, it is still one server.
    hosts = by_family.get(socket.AF_INET) or [f"[{host}]" for host in by_family[socket.AF_INET6]]
    return [f"{host}:{port}" for host in hosts]
