"""The zoo sees a wrong answer: its comparison, the limits of its ways, and its verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_code.triton_deploy.rules.schema import Offer, Schema, Tensor
from tests.zoo.asking import NotCarried, Question, as_sent, difference, public, verdict_of
from tests.zoo.verdicts import EQUAL, Outcome, Verdict, forget_others, record

RIGHT = {"y": np.array([[1.0, np.nan], [np.inf, 2.0]], np.float32)}


def offer(**options: int) -> Offer:
    return Offer(Schema((Tensor("x", "FP32", (-1,)),), (Tensor("y", "FP32", (-1, 2)),)), options)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([[1.0, np.nan], [np.inf, 2.0]], ""),
        ([[1.0005, np.nan], [np.inf, 2.0]], ""),
        ([[1.002, np.nan], [np.inf, 2.0]], "other values"),
        ([[1.0, 0.0], [np.inf, 2.0]], "other values"),
        ([[1.0, np.nan], [-np.inf, 2.0]], "other values"),
        ([1.0, np.nan, np.inf, 2.0], "has shape [4]"),
    ],
)
def test_numbers_have_to_be_those_of_onnx_runtime(answer: Any, told: str) -> None:
    found = difference({"y": np.array(answer, np.float32)}, RIGHT)
    assert found == told or (told and told in found)


def test_names_types_and_strings_have_to_be_the_same() -> None:
    assert "missing" in difference({}, RIGHT)
    assert "float64" in difference({"y": RIGHT["y"].astype(np.float64)}, RIGHT)
    texts = {"y": np.array(["a", "ä"], np.object_)}
    assert not difference({"y": np.array([b"a", "ä".encode()], np.object_)}, texts)
    assert "other values" in difference({"y": np.array([b"a", b"b"], np.object_)}, texts)
    assert "other values" in difference({"y": np.array([1, 2])}, {"y": np.array([1, 3])})


def test_scalars_are_sent_and_expected_as_triton_has_them() -> None:
    assert public(np.array(3.0), offer()).shape == (1,)
    assert public(np.ones(4), offer()).shape == (4,)
    assert public(np.ones(4), offer(max_batch_size=8)).shape == (4, 1)
    with pytest.raises(ValueError, match="the model takes FP32"):
        as_sent(np.ones(4), "FP32")


def test_what_a_way_cannot_carry_is_no_failure_and_an_error_is_one() -> None:
    def asked(raised: Exception | None, answers: Any = RIGHT) -> str:
        def ask(question: Question) -> Any:
            if raised:
                raise raised
            return answers

        return verdict_of(ask, Question("m", offer(), {"x": np.ones(2, np.float32)}, RIGHT))

    assert asked(None) == EQUAL
    assert asked(None, {}).startswith("differs: output y is missing")
    assert asked(NotCarried("why")) == "not carried: why"
    assert asked(OSError("gone")) == "fails: OSError gone"


def test_a_verdict_replaces_its_own_only_and_cases_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    ways = {"one": EQUAL, "other": "not carried: why"}
    record([Verdict(name="a", group="g", outcome=Outcome.SERVED, ways=ways, took_s=1.5)], file)
    record([Verdict(name="b", group="g", outcome=Outcome.WRONG, cause="old")], file)
    record([Verdict(name="b", group="g", outcome=Outcome.REFUSED, cause="new")], file)
    served = {"outcome": "served", "equal_ways": 1, "ways": {"other": "not carried: why"}}
    assert json.loads(file.read_text()) == {"g": {"a": served, "b": {"outcome": "refused", "cause": "new"}}}
    forget_others("g", ["a"], file)
    assert json.loads(file.read_text()) == {"g": {"a": served}}
