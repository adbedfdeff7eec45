"""What GrpcTriton makes of answers that a real Triton gives once in a thousand times."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.errors import (
    ArtifactRejected,
    DeployError,
    Misconfigured,
    NotFound,
    Unavailable,
    Unclassified,
)
from tests.support.fakes import ones

STILL_THERE = "failed to unload 'm.v2', versions that are still available: 2"


class Unloading(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers the first unloads as Triton 2.51 did whose load ended in that moment."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked = refusals, 0
        self._server = grpc.server(ThreadPoolExecutor(1))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def RepositoryModelUnload(  # noqa: N802 (the protocol's)
        self, request: object, context: grpc.ServicerContext
    ) -> object:
        self.asked += 1
        if self.asked <= self.refusals:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, STILL_THERE)
        return service_pb2.RepositoryModelUnloadResponse()

    def stop(self) -> None:
        self._server.stop(None)


@pytest.fixture
def unloading(request: pytest.FixtureRequest) -> Iterator[Unloading]:
    server = Unloading(request.param)
    yield server
    server.stop()


@pytest.mark.parametrize("unloading", [2], indirect=True)
def test_an_unload_that_a_load_has_overtaken_is_asked_for_again(unloading: Unloading) -> None:
    GrpcTriton(unloading.url, 5).unload("m.v2", 5)
    assert unloading.asked == 3


@pytest.mark.parametrize("unloading", [1000], indirect=True)
def test_what_is_never_unloaded_is_no_fault_of_the_model(unloading: Unloading) -> None:
    with pytest.raises(Unavailable, match=r"failed unloading m\.v2: .* still available: 2") as failure:
        GrpcTriton(unloading.url, 5).unload("m.v2", 2)
    assert unloading.asked > 1
    assert "restart that Triton" in failure.value.hint


class Failing(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Fails whatever it is asked with one status and one text."""

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        self._status, self._text = status, text
        self._server = grpc.server(ThreadPoolExecutor(1))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.triton = GrpcTriton(f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}", 5)
        self._server.start()

    def _fail(self, request: object, context: grpc.ServicerContext) -> None:
        context.abort(self._status, self._text)

    RepositoryModelLoad = RepositoryModelUnload = RepositoryIndex = ModelInfer = ServerMetadata = _fail

    def stop(self) -> None:
        self._server.stop(None)


@pytest.fixture
def failing(request: pytest.FixtureRequest) -> Iterator[Failing]:
    server = Failing(*request.param)
    yield server
    server.stop()


def what_each_call_raises(triton: GrpcTriton) -> list[type[DeployError]]:
    raised = []
    for call in (
        lambda: triton.load("m.v2", 5),
        lambda: triton.infer("m.v2", ones(), 5),
        lambda: triton.unload("m.v2", 5),
        triton.loaded,
        triton.folders,
        triton.about,
    ):
        with pytest.raises(DeployError) as failure:
            call()
        raised.append(type(failure.value))
    return raised


INTERNAL, EXHAUSTED = grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED
INVALID = (
    "load failed for model 'm.v2': version 2 is at UNAVAILABLE state: Internal: onnx runtime error 10: x"
)


@pytest.mark.parametrize(
    ("failing", "by_a_model", "otherwise"),
    [
        ((INTERNAL, INVALID), ArtifactRejected, Unavailable),
        ((INTERNAL, "something new"), Unclassified, Unavailable),
        ((INTERNAL, "failed to open directory /models/m.v2"), Unavailable, Unavailable),
        ((EXHAUSTED, "no more threads"), Unavailable, Unavailable),
        ((INTERNAL, f"onnx runtime error 10: {'x' * 30_000}"), Unclassified, Unavailable),
        ((grpc.StatusCode.PERMISSION_DENIED, "no key"), Misconfigured, Misconfigured),
        ((grpc.StatusCode.NOT_FOUND, "m.v2"), NotFound, NotFound),
        ((grpc.StatusCode.UNKNOWN, "\x1b"), Unclassified, Unavailable),
    ],
    indirect=["failing"],
)
def test_a_model_is_blamed_only_for_what_it_did(
    failing: Failing, by_a_model: type[DeployError], otherwise: type[DeployError]
) -> None:
    assert what_each_call_raises(failing.triton) == [by_a_model] * 2 + [otherwise] * 4
