"""Triton, by gRPC. Never by HTTP: a load over HTTP holds one of Triton's HTTP threads and stalls the clients on it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ArtifactRejected, DeployError, Misconfigured, NotFound, Unavailable
from .settings import DNS_PREFIX, Settings

if TYPE_CHECKING:
    from .golden import Array


_STILL_THERE = "versions that are still available"
_UNLOAD_POLL_S = 0.2


@dataclass(frozen=True)
class Answer:
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
        """

    def unload(self, model: str, timeout_s: float) -> None:
        """Unload a model; one that is not loaded is fine."""

    def loaded(self) -> dict[str, tuple[int, ...]]:
        """Return every model that has versions that answer requests, with those versions, ascending."""

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """Return the versions of a model that answer requests, ascending."""

    def infer(
        self, model: str, inputs: Mapping[str, Array], timeout_s: float, version: int | None = None
    ) -> Answer:
        """Ask a model, or exactly one version of it.

        Raises:
            NotFound: there is no such model or version.
            ArtifactRejected: the model failed on these inputs; the text is Triton's.
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
        self._call(
            f"loading {model}",
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
                    f"unloading {model}",
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
        index = self._call(
            "listing its models",
            self._timeout_s,
            lambda: self._client.get_model_repository_index(client_timeout=self._timeout_s),
        )
        ready: dict[str, tuple[int, ...]] = {}
        for entry in index.models:
            if entry.state == "READY":
                ready[entry.name] = tuple(sorted((*ready.get(entry.name, ()), int(entry.version))))
        return ready

    def ready_versions(self, model: str) -> tuple[int, ...]:
        """See Triton.ready_versions."""
        return self.loaded().get(model, ())

    def about(self) -> ServerInfo:
        """Return what the server says of itself; raises Unavailable when it does not answer."""
        found = self._call(
            "saying what it is",
            self._timeout_s,
            lambda: self._client.get_server_metadata(client_timeout=self._timeout_s),
        )
        return ServerInfo(found.version, tuple(found.extensions))

    def folders(self) -> frozenset[str]:
        """Return the name of every folder in its repository, loaded or not; raises Unavailable when it does not answer."""
        index = self._call(
            "listing its models",
            self._timeout_s,
            lambda: self._client.get_model_repository_index(client_timeout=self._timeout_s),
        )
        return frozenset(entry.name for entry in index.models)

    def infer(
        self, model: str, inputs: Mapping[str, Array], timeout_s: float, version: int | None = None
    ) -> Answer:
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
            f"asking {model}",
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
        return Answer(int(response.model_version), outputs, latency_s)

    def _call(self, doing: str, timeout_s: float, action: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return action()
        except InferenceServerException as error:
            raise self._error(doing, timeout_s, error.status() or "", error.message() or "") from error

    def _error(self, doing: str, timeout_s: float, status: str, message: str) -> DeployError:
        # A Python backend adds its own source line and a lone semicolon.
        message = message.partition("\n\nAt:\n")[0].strip(" \n.;")
        if status.endswith("DEADLINE_EXCEEDED"):
            return Unavailable(
                f"Triton at {self.url} did not finish {doing} within {timeout_s:g} s.",
                hint=f"It may still be at it. If it hangs, restart that Triton; if it is only slow, raise {_limit(doing)}.",
            )
        # UNAVAILABLE is what gRPC says of a server that can't be reached, and Triton of a version that was unloaded and
        # of model control that is off: these two first.
        if status.endswith("NOT_FOUND") or "unknown model" in message:
            return NotFound(
                f"Triton at {self.url} refused {doing}: {message}.",
                hint="Check what it has loaded: triton-deploy status.",
            )
        denied = ("UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED")
        if "explicit model load" in message or status.endswith(denied):
            return Misconfigured(
                f"Triton at {self.url} refused {doing}: {message}.",
                hint="Start Triton with --model-control-mode=explicit and allow model control from here.",
            )
        if status.endswith(("UNAVAILABLE", "CANCELLED")):
            return Unavailable(
                f"Triton at {self.url} can't be reached: {message}.",
                hint="Check that it runs and that TRITON_DEPLOY_GRPC_URLS has its gRPC port, then deploy again.",
            )
        if _STILL_THERE in message:
            return Unavailable(
                f"Triton at {self.url} failed {doing}: {message}.",
                hint="It loads that model again and again for somebody else, or is stuck: see its log; restart that Triton if it lasts.",
            )
        if "failed to poll" in message:
            return Misconfigured(
                f"Triton at {self.url} refused {doing}: it does not see the model in its repository.",
                hint="TRITON_DEPLOY_REPOSITORY must be the folder that this Triton was started with (--model-repository), shared with it; its log says what it can't read.",
            )
        if "out of memory" in message.lower() or "failed to allocate" in message.lower():
            return Unavailable(
                f"Triton at {self.url} failed {doing}: {message}.",
                hint="It has no room for another version: free memory, or lower TRITON_DEPLOY_KEEP_WARM, then deploy again.",
            )
        if "backend library" in message or "unable to find backend" in message:
            return Misconfigured(
                f"Triton at {self.url} failed {doing}: {message}.",
                hint="This Triton has no usable onnxruntime backend; the model is not at fault.",
            )
        what = "the golden inputs logged with it" if doing.startswith("asking") else "its triton/config.json"
        return ArtifactRejected(
            f"Triton at {self.url} failed {doing}: {message}.",
            hint=f"See Triton's log; the model or {what} needs repair.",
        )


def tritons_of(settings: Settings) -> list[GrpcTriton]:
    """Return the servers that the settings name, those behind a DNS name as it resolves now.

    Raises:
        Unavailable: a name has no address.
    """
    urls = [address for url in settings.triton_grpc_urls for address in _addresses(url)]
    return [GrpcTriton(url, settings.switch_timeout_s) for url in dict.fromkeys(urls)]


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


def _limit(doing: str) -> str:
    if doing.startswith("asking"):
        return "TRITON_DEPLOY_INFER_TIMEOUT_S"
    if doing.startswith("loading"):
        return "TRITON_DEPLOY_LOAD_TIMEOUT_S (for the public name: TRITON_DEPLOY_SWITCH_TIMEOUT_S)"
    return "TRITON_DEPLOY_SWITCH_TIMEOUT_S"
