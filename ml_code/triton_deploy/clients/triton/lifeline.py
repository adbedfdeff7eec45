"""Tells whether a Triton is still the same process.

Triton tells neither its start time nor its process. The proof is an answer on a stream that was opened
before: a stream belongs to one connection of one process, and gRPC never opens it anew. If the stream has
ended, the network may have cut it. Then a process that was told to load a model since the opening still
knows that model, and a new process does not. A process that answers at once is the same in any case: a
Triton needs longer to start.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Protocol

from ...errors import Unavailable

_NO_MODEL = "triton_deploy_are_you_there"
"""Model name of the requests: no model has this name, and a refusal costs Triton half a millisecond."""
_POLL_S = 0.1
_NO_RESTART_S = 0.5
"""No Triton is ready again within this time after its end, seconds."""
_LET_GO_S = 0.25
"""How long a stream outlives its connection when a process ends, seconds; a process that announces its
exit keeps the stream."""


class Life(StrEnum):
    """The fate of a process."""

    SAME = "same"
    """The process answers as before."""
    LEFT = "left"
    """The process announced its exit: it was stopped or is being restarted."""
    ENDED = "ended"
    """The process ended without announcing it."""
    SILENT = "silent"
    """The process does not answer, and its connection stands: its fate is unknown."""


class Lifeline(Protocol):
    """One connection to one process."""

    def look(self) -> Life:
        """Return the fate of the process since the lifeline was opened."""


class GrpcLifeline:
    """A stream of inference requests to one Triton, on a connection of its own.

    The stream is closed as soon as the process announces its exit: Triton waits for open streams before
    it ends.

    Args:
        url: ``host:port`` of the Triton's gRPC endpoint.
        timeout_s: longest wait for an answer, seconds.
        knows: whether the process that answers now was told to load the model; raises Unavailable when no
            process answers.

    Raises:
        Unavailable: no connection can be made.
    """

    def __init__(self, url: str, timeout_s: float, knows: Callable[[], bool]) -> None:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        self._url = url
        self._timeout_s = timeout_s
        self._knows = knows
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for an answer, False for the end of the stream."""
        self._ended = threading.Event()
        self._ended_at = 0.0
        self._left = threading.Event()
        self._answered = False
        self._ready = threading.Event()
        """Set when gRPC has reported that the connection stands: on a thread of its own, and late on a
        busy machine."""
        # A connection of its own: other code must neither close it nor open it anew.
        self._channel = grpc.insecure_channel(url, options=[("grpc.use_local_subchannel_pool", 1)])
        self._channel.subscribe(self._changed)
        self._stream = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer(
            iter(self._asked.get, None)
        )
        threading.Thread(target=self._read, name="lifeline", daemon=True).start()
        if self.look() is Life.SAME:
            self._answered = True
            # Otherwise the first report of gRPC could be the connection's end, and an announced exit
            # would be missed.
            self._ready.wait(timeout_s)
        else:
            self.close()
            raise Unavailable(
                f"Triton at {url} can't be reached, or did not answer within {timeout_s:g} s.",
                hint="Check that it runs and that TRITON_DEPLOY_GRPC_URLS has its gRPC port, then deploy again.",
            )

    def look(self) -> Life:
        """See Lifeline.look."""
        from tritonclient.grpc import service_pb2

        if self._left.is_set():
            return Life.LEFT
        if self._ended.is_set():
            return self._after_the_end()
        self._asked.put(service_pb2.ModelInferRequest(model_name=_NO_MODEL))
        deadline = time.monotonic() + self._timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                if self._heard.get(timeout=left_s):
                    return Life.LEFT if self._left.is_set() else Life.SAME
                return Life.LEFT if self._left.is_set() else self._after_the_end()
        return Life.SILENT

    def close(self) -> None:
        """Close the stream, and leave the connection to gRPC."""
        self._asked.put(None)
        self._stream.cancel()
        # A closed channel gives a traceback on gRPC's watching thread. gRPC closes an unused channel by
        # itself.
        self._channel.unsubscribe(self._changed)

    def _after_the_end(self) -> Life:
        """Return whether the process has ended, or only its connection was cut."""
        if not self._answered:
            return Life.ENDED
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                # If the process does not know the model, it is a new one, or the load was lost with the
                # connection.
                same = self._knows() or time.monotonic() < self._ended_at + _NO_RESTART_S
                return Life.SAME if same else Life.ENDED
            except Unavailable:
                if self._is_refused():
                    return Life.ENDED
            if time.monotonic() > deadline:
                return Life.SILENT
            time.sleep(_POLL_S)

    def _is_refused(self) -> bool:
        """Whether no process listens on the port any more."""
        host, _, port = self._url.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), self._timeout_s).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def _read(self) -> None:
        import grpc

        try:
            for _ in self._stream:
                self._heard.put(True)
        except grpc.RpcError:
            pass
        finally:
            self._ended_at = time.monotonic()
            self._ended.set()
            self._heard.put(False)

    def _changed(self, state: Any) -> None:
        import grpc

        if state is grpc.ChannelConnectivity.READY:
            self._ready.set()
        elif self._ready.is_set() and not self._ended.wait(_LET_GO_S):
            self._left.set()
            self._stream.cancel()


@contextlib.contextmanager
def lifeline_to(url: str, timeout_s: float, knows: Callable[[], bool]) -> Iterator[Lifeline]:
    """Yield a lifeline to a Triton; see GrpcLifeline."""
    line = GrpcLifeline(url, timeout_s, knows)
    try:
        yield line
    finally:
        line.close()
