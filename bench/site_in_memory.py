"""A fake Triton for a thousand models, and deploys to it by the library.

A real Triton with the Python-based backend has a process for each model, which takes some 50 MB and a third
of a second. Here the fake of the tests, which fulfils the same contract as the real Triton, answers which
models are loaded. It answers over gRPC from a process of its own, so the figures include the cost to send
and to read an answer. The fake works in Python, not in C++. Fakes replace MLflow and S3 as well; the
library writes the files of the repository.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ml_code.triton_deploy.clients.registry import RegisteredVersion
from ml_code.triton_deploy.clients.triton import Triton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import DeployRequest
from ml_code.triton_deploy.repository import models_in
from ml_code.triton_deploy.rules.deployment import Deployment
from ml_code.triton_deploy.settings import Settings
from tests.support.fakes import FakeRegistry, FakeStore, FakeTriton, fake_store
from tests.support.models import files, golden, times
from tests.support.settings import changed
from tests.support.signing import declared


class Publisher:
    """Deploys versions of small models that exist in this process only: ``y = x * version``.

    Args:
        store: the store of the artifacts.
        settings: settings of the deploys.
        tritons: the Tritons; default: the Tritons of the settings.
    """

    def __init__(self, store: FakeStore, settings: Settings, tritons: Sequence[Triton] | None = None) -> None:
        self._store = store
        self._registry = FakeRegistry()
        self._deployer = Deployer(
            settings, registry=self._registry, stores=lambda uri: store, tritons=tritons, sign=declared
        )

    def deploy(self, model: str, version: int) -> Deployment:
        """Register and deploy a version."""
        uri = f"fake://artifacts/{version}"
        for path, content in files(times(version), triton__golden_json=golden(version)).items():
            self._store.objects.setdefault(f"{uri}/{path}", content)
        self._registry.models[model] = {
            "A": RegisteredVersion(
                version=version, run_id=f"run{version}", artifact_uris=(uri,), expected_digest=""
            )
        }
        request = DeployRequest(model=model, alias="A", deploy_id=f"bench-{model}-{version}", actor="bench")
        return self._deployer.deploy(request)


def settings_at(root: Path, *urls: str) -> Settings:
    """Return settings for a repository whose registry is in this process."""
    return changed(
        Settings(),
        repository=root,
        triton__grpc_urls=urls or ("stood-in:0",),
        mlflow__alias_wait_s=0,
        transfer__min_free_bytes=0,
        # There are no clients to wait for.
        triton__settle_s=0,
    )


def fill(root: Path, count: int) -> None:
    """Deploy ``count`` models to a new repository."""
    root.mkdir()
    with fake_store() as store:
        publisher = Publisher(store, settings_at(root), [FakeTriton(root)])
        for number in range(count):
            publisher.deploy(f"model_{number:04d}", 1)


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve the live versions of a repository, like a Triton that has just started; yield the address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(root, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        # The process ends when this end of the pipe is closed.
        ours.close()
        process.join(timeout=30)


def _serve(root: Path, pipe: Any) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    triton = FakeTriton(root)
    triton.restart(*models_in(root))

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
            answer = service_pb2.RepositoryIndexResponse()
            for name, versions in triton.loaded().items():
                for version in versions:
                    answer.models.add(name=name, version=str(version), state="READY")
            return answer

        def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            versions = triton.ready_versions(request.name)
            if not versions:
                context.abort(
                    grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found"
                )
            return service_pb2.ModelMetadataResponse(name=request.name, versions=map(str, versions))

    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    with contextlib.suppress(EOFError):
        pipe.recv()
    server.stop(grace=1).wait()
