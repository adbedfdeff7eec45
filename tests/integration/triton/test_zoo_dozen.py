"""A dozen models of the zoo, one or more of each kind that needs no further package; ``make soak`` has the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack import Stack
from tests.support.servers.tritons import TritonServer
from tests.zoo import case_of
from tests.zoo.enclosure import Enclosure, enclosure
from tests.zoo.verdicts import EQUAL, Outcome

pytestmark = pytest.mark.integration

SERVED = [
    "made/names_slash_and_colon",
    "made/opset_7",
    "made/type_float16",
    "made/type_string",
    "made/scalar_in",
    "made/batch_scalar_a_row",
    "made/loop_powers",
    "made/external_spaces",
    "pytorch/embedding_torchscript",
    "sklearn_estimators/KNNImputer",
    "sklearn_pipelines/mixed_columns",
]


@pytest.fixture(scope="module")
def zoo(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclosure]:
    home = tmp_path_factory.mktemp("zoo")
    with enclosure(home, TritonServer(stack), stack.model_repository) as running:
        yield running


@pytest.mark.parametrize("name", SERVED)
def test_a_model_answers_in_every_way_as_onnx_runtime_does(name: str, zoo: Enclosure) -> None:
    verdict = zoo.judge(case_of(name))
    if verdict.outcome == Outcome.UNAVAILABLE:
        pytest.skip(verdict.cause)
    assert verdict.outcome == Outcome.SERVED, verdict.cause
    not_carried = {way for way, said in verdict.ways.items() if said != EQUAL}
    assert not_carried == ({"gateway v2 JSON"} if name == "made/type_float16" else set())


def test_a_model_that_triton_cannot_serve_is_refused_with_its_cause(zoo: Enclosure) -> None:
    verdict = zoo.judge(case_of("made/refused_sequence_out"))
    assert verdict.outcome == Outcome.REFUSED, verdict.cause
