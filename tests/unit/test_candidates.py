"""What a gateway makes of a candidate's answers: how far they are from live's, and whose name they carry."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ml_code.gateway.candidates import Difference, _rename, differences
from ml_code.gateway.errors import BackendFailed
from ml_code.gateway.v2_forward import version_of

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
    )
    assert found.absolute == pytest.approx(expected.absolute)
    assert found.relative == pytest.approx(expected.relative)
    assert found.disagree is expected.disagree


def test_labels_disagree_when_one_row_does() -> None:
    sure = {"probabilities": probabilities([0.9, 0.1], [0.2, 0.8])}
    less = {"probabilities": probabilities([0.6, 0.4], [0.4, 0.6])}
    other = {"probabilities": probabilities([0.9, 0.1], [0.8, 0.2])}
    assert not differences(sure, less).disagree
    assert differences(sure, other).disagree
    for labels, given in (([1, 2], [1, 3]), ([b"a", b"b"], [b"a", b"c"])):
        dtype = np.int64 if labels == [1, 2] else np.object_
        assert not differences({"l": np.array(labels, dtype)}, {"l": np.array(labels, dtype)}).disagree
        assert differences({"l": np.array(labels, dtype)}, {"l": np.array(given, dtype)}).disagree


@pytest.mark.parametrize("given", [{}, {"y": np.ones((2, 1), np.float32)}])
def test_an_output_that_is_missing_or_of_another_shape_is_a_failure(given: Any) -> None:
    with pytest.raises(BackendFailed, match="output y"):
        differences({"y": np.ones((1, 2), np.float32)}, given)


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
    _rename(reply, "m", 13)
    sizes = dict(reply.headers)
    size = int(sizes[b"inference-header-content-length"])
    assert int(sizes[b"content-length"]) == len(reply.head)
    assert sizes[b"content-type"] == b"application/json"
    content = json.loads(reply.head[:size])
    assert content["model_name"] == "m"
    assert content.get("id") == (json.loads(text).get("id"))
    assert reply.head[size:] == binary
    assert version_of(reply.head) == "13"
