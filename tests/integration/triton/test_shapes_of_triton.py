"""A real Triton has other shapes of a model than the deployer: the version goes live with Triton's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ml_code.triton_deploy.clients.triton import GrpcTriton
from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.model.reported_shapes import runtime_version
from ml_code.triton_deploy.model.signature import Signature, Signer, signature_of
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.rules.schema import Schema
from tests.support.fakes import ones
from tests.support.models import files, folded, golden, times
from tests.support.world import MODEL, World, fresh_world, world

__all__ = ["fresh_world", "world"]

pytestmark = pytest.mark.integration


def output_of(world: World) -> tuple[int, ...]:
    return Schema.from_dict(world.folder.versions.require(1).schema).outputs[0].shape


def test_a_schema_that_triton_refuses_becomes_tritons(
    world: World, triton_server: Callable[..., Any]
) -> None:
    server = triton_server(world.root)
    triton = GrpcTriton(server.grpc_url, 20.0)

    def opened(*arguments: Any) -> Signature:
        """The signature of a runtime that infers less."""
        signature = signature_of(*arguments)
        outputs = tuple(replace(port, shape=(-1,) * len(port.shape)) for port in signature.outputs)
        return replace(signature, outputs=outputs)

    def deploy(deploy_id: str, sign: Signer = opened, **changes: bool) -> Deployment:
        deployer = Deployer(
            world.settings,
            registry=world.registry,
            stores=lambda uri: world.store,
            tritons=[triton],
            clock=lambda: world.now,
            sign=sign,
        )
        return deployer.deploy(world.request(deploy_id, **changes))

    world.register(1, files(times(1.0), triton__golden_json=golden(1.0)))
    record = deploy("d1")
    assert record.state is State.COMMITTED
    assert record.shapes["differences"] == ["y is [-1, 2] there and [-1, -1] here"]
    assert record.shapes["triton"] == f"2.51.0 at {server.grpc_url}"
    assert record.shapes["onnxruntime"] == runtime_version()
    assert output_of(world) == (-1, 2)
    # NVIDIA's default of 4 rows does not stay.
    rows = {"x": ones()["x"].repeat(100, axis=0)}
    assert triton.infer(MODEL, rows, 20.0).outputs["y"].shape == (100, 2)
    assert "max_batch_size" not in triton.configuration(f"{MODEL}.v1")
    server.restart()
    triton = GrpcTriton(server.grpc_url, 20.0)
    assert triton.infer(MODEL, rows, 20.0).version == 1, "from its files"
    # The next version begins with Triton's shapes: it would break clients otherwise.
    world.register(2, files(times(2.0), triton__golden_json=golden(2.0)))
    assert not deploy("d2").shapes
    assert triton.infer(MODEL, rows, 20.0).version == 2

    # Triton folds no constant at this level, and has no size for the columns.
    options = json.dumps({"optimization": {"graph": {"level": 2}}}).encode()
    world.register(3, files(folded(3.0), triton__golden_json=golden(3.0)) | {"triton/config.json": options})
    record = deploy("d3", signature_of, allow_schema_change=True)
    assert record.shapes["differences"] == ["y is [-1, -1] there and [-1, 2] here"]
    assert triton.infer(MODEL, rows, 20.0).version == 3
