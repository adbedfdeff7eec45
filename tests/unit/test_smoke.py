"""The smoke test: which answers of which Triton make a candidate fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from ml_code.triton_deploy.clients.triton import Inference
from ml_code.triton_deploy.errors import TritonsDiffer, VerificationFailed
from ml_code.triton_deploy.model.smoke_case import SmokeCase
from ml_code.triton_deploy.rules.deployment import Deployment, State
from ml_code.triton_deploy.rules.schema import Offer, Schema, Tensor
from tests.support.fakes import FakeTriton
from tests.support.models import files
from tests.support.world import MODEL, World

Change = Callable[[Inference], Inference]


class Distorted(FakeTriton):
    """A Triton whose answers of candidates are changed on their way, from the n-th on."""

    live = f"{MODEL}.v1"
    change: Change | None = None
    first = 1
    asked = 0

    def infer(
        self, model: str, inputs: Mapping[str, Any], timeout_s: float, version: int | None = None
    ) -> Inference:
        answer = super().infer(model, inputs, timeout_s, version)
        if self.change is None or model in (MODEL, self.live):
            return answer
        self.asked += 1
        return self.change(answer) if self.asked >= self.first else answer


@pytest.fixture
def tritons(world: World) -> list[Distorted]:
    """Two Tritons that serve version 1; version 2 is registered."""
    found = [Distorted(world.root, f"fake:{number}") for number in (1, 2)]
    world.register_times(1)
    deploy(world, found, "d1")
    world.register_times(2)
    return found


def deploy(world: World, tritons: list[Distorted], deploy_id: str, **changes: Any) -> Deployment:
    return world.deployer(tritons=tritons, **changes).deploy(world.request(deploy_id))


def taking(seconds: float) -> Change:
    return lambda answer: replace(answer, latency_s=seconds)


def saying(version: int) -> Change:
    return lambda answer: replace(answer, version=version)


def wrong(answer: Inference) -> Inference:
    return replace(answer, outputs={name: np.asarray(values) + 1 for name, values in answer.outputs.items()})


@pytest.mark.parametrize("slow", [0, 1])
def test_the_slowest_triton_decides_whether_a_candidate_is_too_slow(
    world: World, tritons: list[Distorted], slow: int
) -> None:
    for at, triton in enumerate(tritons):
        triton.change = taking(2.0 if at == slow else 0.1)
    with pytest.raises(VerificationFailed, match=r"takes 2\.000 s a request, more than 1 s"):
        deploy(world, tritons, "d2", smoke__latency_limit_s=1.0)
    assert [triton.ready_versions(MODEL) for triton in tritons] == [(1,), (1,)]
    world.register_times(3)
    for triton in tritons:
        triton.change = taking(0.9)
    assert deploy(world, tritons, "d3", smoke__latency_limit_s=1.0).state is State.COMMITTED


@pytest.mark.parametrize("version", [1, 3])
def test_an_answer_of_another_version_is_no_proof(
    world: World, tritons: list[Distorted], version: int
) -> None:
    tritons[1].change = saying(version)
    with pytest.raises(TritonsDiffer, match=f"Version {version} answered instead of 2"):
        deploy(world, tritons, "d2")
    assert [triton.ready_versions(MODEL) for triton in tritons] == [(1,), (1,)]


def test_every_answer_counts_not_the_first_alone(world: World, tritons: list[Distorted]) -> None:
    # The first one was asked six times when it was given the candidate.
    for triton, first in zip(tritons, (8, 2), strict=True):
        triton.change, triton.first = wrong, first
    with pytest.raises(
        VerificationFailed, match="answers at random: two answers to the same inputs differ by up to 1"
    ):
        deploy(world, tritons, "d2")
    assert [triton.ready_versions(MODEL) for triton in tritons] == [(1,), (1,)]


def test_a_candidate_that_answers_at_random_is_told_so(world: World, tritons: list[Distorted]) -> None:
    numbers = itertools.count(1)
    for triton in tritons:
        triton.change = lambda answer: replace(
            answer, outputs={"y": answer.outputs["y"] + 0.1 * next(numbers)}
        )
    with pytest.raises(VerificationFailed, match="answers at random: two answers") as failed:
        deploy(world, tritons, "d2")
    assert "golden.json with a tolerance" in failed.value.hint
    for triton in tritons:
        triton.change = wrong
    world.register_times(3)
    with pytest.raises(VerificationFailed, match="answers wrongly"):
        deploy(world, tritons, "d3")


SCALED = parse_model("""<ir_version: 9, opset_import: ["" : 17]> scaled (float[N] x, float s) => (float[N] y, float sum) {
    y = Mul (x, s)
    sum = ReduceSum <keepdims = 0> (x)
}""")


class Clients(FakeTriton):
    """A Triton that keeps the shapes that are sent to each name."""

    def infer(
        self, model: str, inputs: Mapping[str, Any], timeout_s: float, version: int | None = None
    ) -> Inference:
        sent = self.__dict__.setdefault("sent", {})
        sent[model] = {name: array.shape for name, array in inputs.items()}
        return super().infer(model, inputs, timeout_s, version)


def test_a_scalar_is_sent_as_a_list_of_one_and_its_answer_fits(world: World) -> None:
    triton = Clients(world.root)
    world.register(1, files(SCALED))
    assert deploy(world, [triton], "d1").state is State.COMMITTED
    shapes = {"x": (1,), "s": (1,)}
    assert triton.__dict__["sent"] == {f"{MODEL}.v1": shapes, MODEL: shapes}


def test_with_batching_a_scalar_a_row_is_sent_as_a_column() -> None:
    schema = Schema((Tensor("x", "FP32", (-1,)), Tensor("z", "FP32", (-1, 3))), (Tensor("y", "FP32", (-1,)),))
    case = SmokeCase("golden", {"x": np.ones(4, np.float32), "z": np.ones((4, 3), np.float32)}, {})
    shapes = [
        {name: array.shape for name, array in case.sent(Offer(schema, options)).items()}
        for options in ({}, {"max_batch_size": 8})
    ]
    assert shapes == [{"x": (4,), "z": (4, 3)}, {"x": (4, 1), "z": (4, 3)}]


def test_a_version_that_one_triton_has_lost_is_not_live_already(
    world: World, tritons: list[Distorted]
) -> None:
    assert deploy(world, tritons, "d2").state is State.COMMITTED
    tritons[1].unload(MODEL, 1)
    deploy(world, tritons, "d3")
    assert [triton.ready_versions(MODEL) for triton in tritons] == [(2,), (2,)]
