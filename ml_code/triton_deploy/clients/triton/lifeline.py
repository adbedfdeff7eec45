"""Whether a Triton is still the process that it was.

Triton tells neither when it was started nor which process it is. A stream that was opened before, and on which it still answers, is the
proof: a stream belongs to one connection of one process, and gRPC never opens it anew. Where the stream has ended, the network may have cut
it: a process that was told meanwhile to load a model still knows of it, and another one does not. One that answers at once is the same,
whatever it knows: a Triton needs longer than that to start.
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
"""What is asked for: no model has this name, and to refuse it costs Triton half a millisecond."""
_POLL_S = 0.1
_NO_RESTART_S = 0.5
"""No Triton is ready so soon after its end."""
_LET_GO_S = 0.25
"""How long a stream outlives its connection when a process ends; one that announces its exit keeps it."""


class Life(StrEnum):
    """What became of a process."""

    SAME = "same"
    """It answers as before."""
    LEFT = "left"
    """It announced its exit: somebody stopped or restarts it."""
    ENDED = "ended"
    """It is gone without a word."""
    SILENT = "silent"
    """It does not answer, and its connection stands: nothing is known."""


class Lifeline(Protocol):
    """One connection to one process."""

    def look(self) -> Life:
        """Return what became of the process since the lifeline was opened."""


class GrpcLifeline:
    """A stream of inference requests to one Triton, on a connection of its own.

    It is let go as soon as the process announces its exit: Triton waits for open streams before it ends.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        timeout_s: how long an answer is waited for, seconds.
        knows: whether the process that answers now was told to load the model; raises Unavailable when none answers.

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
        """gRPC has told that the connection stands. It tells so on a thread of its own, late when the machine is busy."""
        # Others' connections are not shared: this one must be nobody's to close or to open anew.
        self._channel = grpc.insecure_channel(url, options=[("grpc.use_local_subchannel_pool", 1)])
        self._channel.subscribe(self._changed)
        self._stream = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer(
            iter(self._asked.get, None)
        )
        threading.Thread(target=self._read, name="lifeline", daemon=True).start()
        if self.look() is Life.SAME:
            self._answered = True
            # Else the end of the connection would be the first that gRPC tells of it, and a process that leaves would go unnoticed.
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
        """Let the stream and its connection go."""
        self._asked.put(None)
        self._stream.cancel()
        # Not closed: the thread of gRPC that watches the connection would meet that with a traceback. It lets go of it by itself.
        self._channel.unsubscribe(self._changed)

    def _after_the_end(self) -> Life:
        """Tell a process that has ended from a connection that was cut."""
        if not self._answered:
            return Life.ENDED
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                # Without the model it is another process, or the load got lost with the connection.
                same = self._knows() or time.monotonic() < self._ended_at + _NO_RESTART_S
                return Life.SAME if same else Life.ENDED
            except Unavailable:
                if self._is_refused():
                    return Life.ENDED
            if time.monotonic() > deadline:
                return Life.SILENT
            time.sleep(_POLL_S)

    def _is_refused(self) -> bool:
        """Whether nobody listens there any more."""
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
    """Give a lifeline to a Triton; see GrpcLifeline."""
    line = GrpcLifeline(url, timeout_s, knows)
    try:
        yield line
    finally:
        line.close()
