"""What a gateway makes of a candidate's answers: how far they are from live's, and whose name they carry."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ml_code.gateway.http.errors import BackendFailed
from ml_code.gateway.triton.candidate_metrics import CandidateMetrics
from ml_code.gateway.triton.comparison import Difference, Tolerance, Tolerances, differences, is_embedding
from ml_code.gateway.triton.forward import version_of
from ml_code.gateway.triton.pool import renamed
from tests.support.world import MODEL, World

EXACT = Tolerance(0, 0)
NAN = float("nan")


def probabilities(*rows: list[float]) -> Any:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("live", "candidate", "expected"),
    [
        ({"y": [[1.0, 2.0]]}, {"y": [[1.0, 2.0]]}, Difference(0, 0, False)),
        ({"y": [[1.0, 2.0]]}, {"y": [[1.0, 2.5]]}, Difference(0.5, 0.25, False)),
        ({"y": [[1.0, 2.0]]}, {"y": [[3.0, 2.0]]}, Difference(2, 2, True)),
        ({"y": [[0.0]]}, {"y": [[1.0]]}, Difference(1, 1e6, False)),
        ({"y": [[NAN, 1.0]]}, {"y": [[NAN, 1.0]]}, Difference(0, 0, False)),
        ({"y": [[NAN]]}, {"y": [[1.0]]}, Difference(1e6, 1e6, False)),
        ({"y": [[1.0]]}, {"y": [[math.inf]]}, Difference(1e6, 1e6, False)),
        ({"y": [[math.inf]]}, {"y": [[math.inf]]}, Difference(0, 0, False)),
        ({"y": [[1.0]]}, {"y": [[1.0]], "new": [[7.0]]}, Difference(0, 0, False)),
        ({"y": np.empty((0, 2), np.float32)}, {"y": np.empty((0, 2), np.float32)}, Difference(0, 0, False)),
    ],
)
def test_how_far_numbers_are_apart(live: Any, candidate: Any, expected: Difference) -> None:
    found = differences(
        {name: np.array(rows, np.float32) for name, rows in live.items()},
        {name: np.array(rows, np.float32) for name, rows in candidate.items()},
        EXACT,
    )
    assert found.absolute == pytest.approx(expected.absolute)
    assert found.relative == pytest.approx(expected.relative)
    assert found.disagree is expected.disagree


def test_labels_disagree_when_one_row_does() -> None:
    sure = {"probabilities": probabilities([0.9, 0.1], [0.2, 0.8])}
    less = {"probabilities": probabilities([0.6, 0.4], [0.4, 0.6])}
    other = {"probabilities": probabilities([0.9, 0.1], [0.8, 0.2])}
    assert not differences(sure, less, EXACT).disagree
    assert differences(sure, other, EXACT).disagree
    for labels, given in (([1, 2], [1, 3]), ([b"a", b"b"], [b"a", b"c"])):
        dtype = np.int64 if labels == [1, 2] else np.object_
        live, same, other = ({"l": np.array(said, dtype)} for said in (labels, labels, given))
        assert not differences(live, same, EXACT).disagree
        assert differences(live, other, EXACT).disagree


@pytest.mark.parametrize("given", [{}, {"y": np.ones((2, 1), np.float32)}])
def test_an_output_that_is_missing_or_of_another_shape_is_a_failure(given: Any) -> None:
    with pytest.raises(BackendFailed, match="output y"):
        differences({"y": np.ones((1, 2), np.float32)}, given, EXACT)


@pytest.mark.parametrize("request_id", ["", '"id":"r1",', r'"id":"\"model_name\":\"m.v13\"",'])
@pytest.mark.parametrize("binary", [b"", b"\x00\x01model_name\xff" * 9])
def test_an_answer_carries_the_public_name_and_right_lengths(request_id: str, binary: bytes) -> None:
    text = f'{{{request_id}"model_name":"m.v13","model_version":"13","outputs":[]}}'.encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(text + binary)),
        (b"inference-header-content-length", b"%d" % len(text)),
    ]
    reply: Any = SimpleNamespace(head=text + binary, headers=headers)
    renamed(reply, "m.v13", "m")
    sizes = dict(reply.headers)
    size = int(sizes[b"inference-header-content-length"])
    assert int(sizes[b"content-length"]) == len(reply.head)
    assert sizes[b"content-type"] == b"application/json"
    content = json.loads(reply.head[:size])
    assert content["model_name"] == "m"
    assert content.get("id") == (json.loads(text).get("id"))
    assert reply.head[size:] == binary
    assert version_of(reply.head) == "13"


# Output by output

SMOKE = Tolerance(1e-3, 1e-5)
UNIT = np.eye(32, dtype=np.float32)[:2]


def nudged(values: Any, by: float) -> Any:
    return (values + np.float32(by)).astype(values.dtype)


@pytest.mark.parametrize(
    ("live", "candidate", "same"),
    [
        pytest.param(probabilities([0.9, 0.1]), probabilities([0.9005, 0.1]), True, id="scores, near"),
        pytest.param(probabilities([0.9, 0.1]), probabilities([0.91, 0.09]), False, id="scores, same label"),
        pytest.param(np.array([1, 2]), np.array([1, 2]), True, id="labels"),
        pytest.param(np.array([10_000, 2]), np.array([10_001, 2]), False, id="labels are not near"),
        pytest.param(np.array([True]), np.array([False]), False, id="truth values"),
        pytest.param(np.array([b"a"], object), np.array([b"b"], object), False, id="texts"),
        pytest.param(np.array([NAN, 1.0]), np.array([NAN, 1.0]), True, id="no number twice"),
        pytest.param(np.array([NAN]), np.array([1.0]), False, id="no number once"),
        pytest.param(np.array([math.inf]), np.array([math.inf]), True, id="infinite"),
        pytest.param(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), True, id="no rows"),
        pytest.param(UNIT, nudged(UNIT, 1e-4), True, id="embedding, near as a vector"),
        pytest.param(UNIT, np.roll(UNIT, 1, axis=1), False, id="embedding, another direction"),
        pytest.param(UNIT, -UNIT, False, id="embedding, the opposite"),
        pytest.param(UNIT[:, :8], nudged(UNIT[:, :8], 1e-4), False, id="not an embedding: zeros count"),
    ],
)
def test_an_output_is_the_same_as_what_it_is(live: Any, candidate: Any, *, same: bool) -> None:
    assert differences({"y": live}, {"y": candidate}, SMOKE).outputs == {"y": same}


def test_each_output_is_told_by_itself_and_an_embedding_has_no_label() -> None:
    live = {"label": np.array([1]), "vector": np.full((1, 64), 0.125, np.float32)}
    candidate = {"label": np.array([1]), "vector": -live["vector"]}
    found = differences(live, candidate, SMOKE)
    assert (found.outputs, found.disagree) == ({"label": True, "vector": False}, False)


def test_an_embedding_is_known_by_its_length_or_its_name() -> None:
    logits = np.linspace(-9, 9, 64, dtype=np.float32)[None]
    assert is_embedding("y", UNIT)
    assert is_embedding("sentence_embedding", logits)
    assert not is_embedding("logits", logits)
    assert not is_embedding("embedding", UNIT[:, :4])


def test_a_version_is_compared_by_its_own_tolerance(world: World) -> None:
    world.register_times(1)
    world.deploy("d1")
    tolerances = Tolerances(world.root, SMOKE)
    assert tolerances.of(MODEL, 1, "d1") == SMOKE
    smoke = next(world.root.rglob("smoke.json"))
    said = json.loads(smoke.read_text())
    smoke.write_text(json.dumps({**said, "tolerance": {"rtol": 0.5}}))
    assert tolerances.of(MODEL, 1, "d1") == SMOKE, "read once"
    assert tolerances.of(MODEL, 1, "d2") == Tolerance(0.5, SMOKE.atol)
    smoke.write_text("torn {")
    assert tolerances.of(MODEL, 1, "d3") == SMOKE
    assert tolerances.of("../x", 1, "d4") == SMOKE


def test_what_a_shadow_says_is_counted_by_output() -> None:
    metrics = CandidateMetrics()
    for outputs in ({"y": True, "z": True}, {"y": False, "z": True}):
        metrics.compared("m", 2, Difference(0, 0, False, outputs), {})
    counted = {
        (sample.labels["output"], sample.labels["outcome"]): sample.value
        for metric in metrics.all
        for family in metric.collect()
        for sample in family.samples
        if sample.name == "gateway_shadow_compared_total"
    }
    assert counted == {("y", "same"): 1, ("y", "differs"): 1, ("z", "same"): 2, ("z", "differs"): 0}
