"""The gate's rules and numbers: what is let through, what is not, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ml_code.gate import __main__ as command_line
from ml_code.gate.champion_rows import shared_rows
from ml_code.gate.evaluation import Comparison, gather, limits_of
from ml_code.gate.judgement import Evidence, GateVerdict, Measured, judge
from ml_code.gate.measuring import DoesNotFit, OnnxModel, latencies_ms
from ml_code.gate.promotion import Promotion, promote, settle
from ml_code.gate.record import numbers, tags
from ml_code.gate.report import headline, page
from ml_code.gate.rules import Rules
from ml_code.gate.scores import (
    METRICS,
    Improvement,
    calibration_error,
    constant_answers,
    improvement,
    scores,
)
from ml_code.gate.settings import RetrainSettings
from ml_code.gate.sources import Champion
from ml_code.training.heldout import HeldOut
from ml_code.triton_deploy.errors import (
    ArtifactRejected,
    Misconfigured,
    Superseded,
    Unavailable,
    VerificationFailed,
)
from ml_code.triton_deploy.model.reference_limits import Limits
from ml_code.triton_deploy.rules.deployment import Deployment, Pinned, State
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.settings import Settings
from tests.support.lazily import lazily
from tests.support.models import times
from tests.support.settings import changed

metrics = lazily("sklearn.metrics")

RANDOM = np.random.default_rng(3)


def release(version: int = 3, generation: int = 5) -> Release:
    return Release(
        model="m",
        generation=generation,
        active_version=version,
        run_id="r3",
        alias="A",
        digest="d",
        previous_version=None,
        warm_versions=(),
        deploy_id="before",
        actor="",
        updated_at_utc="2026-01-02T03:04:05+00:00",
    )


# The rules


def test_rules_come_from_the_environment_and_a_run_can_replace_them() -> None:
    rules = Rules.from_env({"GATE_MARGIN": "0.5", "GATE_DEMAND": "not_worse"})
    assert (rules.margin, rules.demand) == (0.5, "not_worse")
    assert rules.overridden({"margin": 1, "metric": "accuracy"}) == replace(
        rules, margin=1, metric="accuracy"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metrik": "accuracy"}, "'metrik' is no rule of the gate. The rules are block_rows, "),
        ({"margin": "0.1"}, "The rule margin is '0.1', which is no number"),
        ({"margin": True}, "The rule margin is True, which is no number"),
        ({"margin": -0.1}, "margin (GATE_MARGIN) is -0.1: no number of 0 or more"),
        ({"margin": float("nan")}, "margin (GATE_MARGIN) is nan: no number"),
        ({"seed": 1.5}, "The rule seed is 1.5, which is no whole number"),
        ({"metric": "f1"}, "is 'f1': none of auto, log_loss, brier, accuracy, rmse, mae"),
        ({"metric": 5}, "The rule metric is 5, which is no text"),
        ({"demand": "best"}, "demand (GATE_DEMAND) is 'best': none of better, not_worse"),
        ({"confidence": 1.0}, "confidence (GATE_CONFIDENCE) is 1.0: not between 0 and 1"),
        ({"confidence": 95}, "confidence (GATE_CONFIDENCE) is 95: not between 0 and 1"),
        ({"resamples": 10}, "resamples (GATE_RESAMPLES) is 10: too few for an interval"),
        ({"block_rows": 0}, "block_rows (GATE_BLOCK_ROWS) is 0: less than 1"),
        ({"timeout_s": 0}, "timeout_s (GATE_TIMEOUT_S) is 0: no time at all"),
        ({"floor": "high"}, "floor (GATE_FLOOR) is 'high': neither a number, 'baseline' nor 'off'"),
        ({"floor": "nan"}, "is 'nan': neither a number"),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        Rules().overridden(values)
    assert message in str(refused.value)


def test_a_metric_of_the_other_task_is_refused_with_those_that_fit() -> None:
    with pytest.raises(Misconfigured, match=r"no metric of a regression\. Use one of rmse, mae"):
        Rules(metric="accuracy").metric_for("regression")
    assert Rules().metric_for("regression").name == "rmse"
    assert Rules().metric_for("classification").name == "log_loss"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RETRAIN_OPTIONS": "[1]"}, "RETRAIN_OPTIONS='[1]' is no JSON object"),
        ({"RETRAIN_OPTIONS": "{"}, "is no JSON object"),
        ({"RETRAIN_ALIAS": "latest"}, "RETRAIN_ALIAS: 'latest' is not a valid alias"),
        ({"RETRAIN_APPROVAL": "yes"}, "RETRAIN_APPROVAL='yes' is neither 'off' nor 'required'"),
        ({"RETRAIN_APPROVAL_TIMEOUT_S": "0"}, "every promotion would be refused"),
    ],
)
def test_a_setting_of_the_retraining_that_can_not_be_meant_is_refused(
    environment: Mapping[str, str], message: str
) -> None:
    with pytest.raises(Misconfigured) as refused:
        RetrainSettings.from_env(environment)
    assert message in str(refused.value)


# Scores


def classified(rows: int = 400, classes: int = 3) -> tuple[np.ndarray[Any, Any], HeldOut]:
    """Probabilities that know something of the target, and the rows."""
    target = RANDOM.integers(classes, size=rows)
    logits = RANDOM.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[target]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    inputs = {"x": RANDOM.normal(size=(rows, 2)).astype(np.float32)}
    return probabilities.astype(np.float32), HeldOut(inputs, target, "classification")


def test_scores_of_a_classification_are_those_of_scikit_learn() -> None:
    probabilities, held_out = classified()
    found = scores(probabilities, held_out)
    one_hot = np.eye(3)[held_out.target]
    assert found["log_loss"] == pytest.approx(metrics().log_loss(held_out.target, probabilities), rel=1e-5)
    assert found["accuracy"] == metrics().accuracy_score(held_out.target, probabilities.argmax(axis=1))
    assert found["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean(), rel=1e-5)
    assert set(found) == {"log_loss", "accuracy", "brier", "ece"}


def test_scores_of_a_regression_are_those_of_scikit_learn() -> None:
    target = RANDOM.normal(size=(50, 4)).astype(np.float32)
    answers = target + RANDOM.normal(size=(50, 4)).astype(np.float32)
    found = scores(answers, HeldOut({"x": target}, target, "regression"))
    assert found["rmse"] == pytest.approx(
        metrics().root_mean_squared_error(target.ravel(), answers.ravel()), rel=1e-5
    )
    assert found["mae"] == pytest.approx(np.abs(target - answers).mean(), rel=1e-5)
    assert set(found) == {"rmse", "mae"}


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    sure = np.tile([[0.75, 0.25]], (400, 1))
    assert calibration_error(sure, np.array([0, 0, 0, 1] * 100)) == pytest.approx(0, abs=1e-12)
    assert calibration_error(sure, np.ones(400, np.int64)) == pytest.approx(0.75)


def test_too_sure_here_and_not_sure_enough_there_do_not_make_up_for_each_other() -> None:
    answers = np.array([[0.9, 0.1]] * 100 + [[0.6, 0.4]] * 100)
    target = np.array([0] * 80 + [1] * 20 + [0] * 70 + [1] * 30)
    assert calibration_error(answers, target) == pytest.approx(0.1)


def test_a_model_that_is_surely_wrong_on_one_row_has_a_finite_loss() -> None:
    assert METRICS["log_loss"].value(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(16.1, abs=0.1)


def test_the_best_constant_answer_knows_how_often_each_class_occurs() -> None:
    held_out = HeldOut({"x": np.zeros((4, 1))}, np.array([0, 0, 0, 2]), "classification")
    assert constant_answers(held_out, 3).tolist() == [[0.75, 0, 0.25]] * 4
    numbers_ = HeldOut({"x": np.zeros((2, 1))}, np.array([[1, 4], [3, 8]], np.float32), "regression")
    assert constant_answers(numbers_, 2).tolist() == [[2, 6], [2, 6]]


# The interval of the improvement


def interval(
    metric: str, champion: Any, challenger: Any, *, block_rows: int = 1, seed: int = 7, resamples: int = 500
) -> Improvement:
    return improvement(
        METRICS[metric],
        np.asarray(champion, np.float64),
        np.asarray(challenger, np.float64),
        confidence=0.95,
        resamples=resamples,
        block_rows=block_rows,
        seed=seed,
    )


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_a_gain_is_what_is_better_by_the_metric(metric: str) -> None:
    perfect, hopeless = {
        "classification": (np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])),
        "regression": (np.array([1.0, 2.0]), np.array([7.0, -9.0])),
    }[METRICS[metric].task]
    target = np.array([0, 1]) if METRICS[metric].task == "classification" else np.array([1.0, 2.0])
    before, after = (METRICS[metric].rows(answers, target) for answers in (hopeless, perfect))
    assert interval(metric, before, after).low > 0
    assert interval(metric, after, before).high < 0


ROWS = st.lists(st.floats(0, 10), min_size=5, max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(METRICS)), ROWS, st.integers(1, 7), st.randoms())
def test_the_interval_turns_round_with_the_models(
    metric: str, rows: list[float], block: int, random: Any
) -> None:
    others = random.sample(rows, len(rows))
    found = interval(metric, rows, others, block_rows=block, resamples=100)
    turned = interval(metric, others, rows, block_rows=block, resamples=100)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert turned.estimate == pytest.approx(-found.estimate)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(METRICS)), ROWS, st.integers(1, 100))
def test_a_model_does_not_improve_on_itself(metric: str, rows: list[float], block: int) -> None:
    found = interval(metric, rows, rows, block_rows=block, resamples=100)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


def test_the_same_rows_and_seed_give_the_same_interval_and_another_seed_another() -> None:
    rows = RANDOM.random((2, 200))
    assert interval("rmse", *rows) == interval("rmse", *rows)
    assert interval("rmse", *rows) != interval("rmse", *rows, seed=8)


def test_the_interval_is_as_wide_as_statistics_say() -> None:
    """The mean of n differences of standard deviation s lies within 1.96 s / sqrt(n)."""
    before, after = RANDOM.normal(1.0, 0.3, 2000), RANDOM.normal(0.9, 0.4, 2000)
    found = interval("mae", before, after, resamples=4000)
    half = 1.96 * 0.5 / np.sqrt(2000)
    assert found.high - found.estimate == pytest.approx(half, rel=0.1)
    assert found.estimate - found.low == pytest.approx(half, rel=0.1)


def test_rows_are_taken_in_pairs_so_that_what_is_hard_for_both_cancels() -> None:
    hard = RANDOM.exponential(10.0, 300)
    found = interval("mae", hard + 0.1, hard)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_errors_that_come_in_runs_are_less_certain_when_taken_in_blocks() -> None:
    runs = np.repeat(RANDOM.normal(0.1, 1.0, 40), 25)
    alone = interval("mae", runs, np.zeros(1000))
    in_blocks = interval("mae", runs, np.zeros(1000), block_rows=25)
    assert in_blocks.high - in_blocks.low > 3 * (alone.high - alone.low)


def test_many_rows_are_resampled_within_bounded_memory() -> None:
    rows = RANDOM.random((2, 300_000))
    found = interval("mae", *rows, resamples=100)
    assert found.low < found.estimate < found.high


# The verdict

MEASURED = Measured(
    scores={"log_loss": 0.5, "accuracy": 0.8, "ece": 0.03}, latency_ms=2.0, size_bytes=10 << 20
)
EVIDENCE = Evidence(
    rows=200,
    metric=METRICS["log_loss"],
    challenger=MEASURED,
    champion=MEASURED,
    incomparable="",
    improvement=Improvement(0.1, 0.05, 0.15, 0.95),
    baseline=0.69,
)
FIRST = replace(EVIDENCE, champion=None, improvement=None)
MISFIT = replace(FIRST, incomparable="it has no input x")


def challenger(**changes: Any) -> Evidence:
    return replace(EVIDENCE, challenger=replace(MEASURED, **changes))


def broken(verdict: GateVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.holds}


def test_a_clear_improvement_is_promoted_and_the_reason_has_the_interval() -> None:
    verdict = judge(Rules(), EVIDENCE)
    assert verdict.promote
    assert verdict.reason == "log_loss improves by 0.1 (95% interval 0.05 to 0.15), the interval lies above 0"


@pytest.mark.parametrize(
    ("rules", "evidence", "check"),
    [
        (Rules(), replace(EVIDENCE, improvement=Improvement(0.1, -0.01, 0.2, 0.95)), "improvement"),
        (Rules(), replace(EVIDENCE, improvement=Improvement(0.0, 0.0, 0.0, 0.95)), "improvement"),
        (Rules(margin=0.05), EVIDENCE, "improvement"),
        (
            Rules(demand="not_worse", margin=0.02),
            replace(EVIDENCE, improvement=Improvement(0, -0.03, 0.03, 0.95)),
            "improvement",
        ),
        (Rules(), replace(EVIDENCE, rows=29), "rows"),
        (Rules(), replace(EVIDENCE, baseline=0.4), "floor"),
        (Rules(), replace(EVIDENCE, baseline=0.5), "floor"),
        (Rules(floor="0.45"), EVIDENCE, "floor"),
        (Rules(metric="accuracy", floor="0.9"), replace(EVIDENCE, metric=METRICS["accuracy"]), "floor"),
        (Rules(), challenger(scores={"log_loss": 0.5, "ece": 0.09}), "calibration"),
        (Rules(), challenger(latency_ms=4.1), "latency"),
        (Rules(max_latency_ms=1.9), EVIDENCE, "latency_limit"),
        (Rules(), challenger(size_bytes=41 << 20), "size"),
        (Rules(), MISFIT, "champion"),
    ],
)
def test_one_broken_rule_keeps_what_serves(rules: Rules, evidence: Evidence, check: str) -> None:
    verdict = judge(rules, evidence)
    assert not verdict.promote
    assert broken(verdict) == {check}
    assert verdict.reason == next(one.text for one in verdict.checks if not one.holds)


@pytest.mark.parametrize(
    ("rules", "evidence"),
    [
        (Rules(demand="not_worse"), replace(EVIDENCE, improvement=Improvement(0.0, 0.0, 0.0, 0.95))),
        (
            Rules(demand="not_worse", margin=0.02),
            replace(EVIDENCE, improvement=Improvement(0, -0.01, 0.01, 0.95)),
        ),
        (Rules(margin=0.04), EVIDENCE),
        (Rules(floor="0.5"), EVIDENCE),
        (Rules(floor="off"), replace(EVIDENCE, baseline=0.1)),
        (Rules(max_ece_increase=1.0), challenger(scores={"log_loss": 0.5, "ece": 0.9})),
        (Rules(), challenger(latency_ms=4.0)),
        (Rules(latency_slack_ms=3.0), challenger(latency_ms=5.0)),
        (Rules(max_latency_ratio=0), challenger(latency_ms=500.0)),
        (Rules(max_size_ratio=0), challenger(size_bytes=1 << 40)),
        (Rules(size_slack_bytes=32 << 20), challenger(size_bytes=42 << 20)),
        (Rules(), FIRST),
        (Rules(incomparable="floor"), MISFIT),
    ],
)
def test_what_every_rule_lets_through_is_promoted(rules: Rules, evidence: Evidence) -> None:
    verdict = judge(rules, evidence)
    assert verdict.promote, verdict.reason


def test_the_first_model_has_to_beat_the_best_constant_answer() -> None:
    assert "nothing serves yet" in judge(Rules(), FIRST).reason
    assert broken(judge(Rules(), replace(FIRST, baseline=0.3))) == {"floor"}


def test_every_broken_rule_is_a_part_of_the_reason() -> None:
    verdict = judge(Rules(), replace(challenger(latency_ms=9.0), rows=3))
    assert verdict.reason.count(";") == 1
    assert "3 held-out rows" in verdict.reason
    assert "latency 9 ms after 2 ms" in verdict.reason


# Models that are run


def classifier(
    path: Path, weights: Any, *, rows: int | str = "batch", source: str = "x", target: str = "probabilities"
) -> Path:
    """An ONNX model of softmax(x @ weights)."""
    weights = np.asarray(weights, np.float32)
    nodes = [
        helper.make_node("MatMul", [source, "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [target], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "softmax",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [rows, weights.shape[0]])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, [rows, weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path / "model.onnx"))
    return path / "model.onnx"


def separable(rows: int = 300) -> HeldOut:
    """Two inputs, of which the first says the class up to noise."""
    x = RANDOM.normal(size=(rows, 2)).astype(np.float32)
    target = (x[:, 0] + 0.3 * RANDOM.normal(size=rows) > 0).astype(np.int64)
    return HeldOut({"x": x}, target, "classification")


SHARP, DULL = [[-4.0, 4.0], [0.0, 0.0]], [[-0.5, 0.5], [0.5, -0.5]]


def measured(rules: Rules, held_out: HeldOut, new: Path, live: Path | None) -> Evidence:
    with OnnxModel(new, "version 4", Limits()) as model:
        return gather(rules, held_out, model, Champion(release(), live) if live else None)


def test_a_sharper_model_is_promoted_and_the_duller_one_is_not(tmp_path: Path) -> None:
    held_out = separable()
    sharp, dull = classifier(tmp_path / "sharp", SHARP), classifier(tmp_path / "dull", DULL)
    # How long either takes is the machine's affair here.
    rules = Rules(max_latency_ratio=0)
    better, worse = (
        judge(rules, measured(rules, held_out, *models)) for models in ((sharp, dull), (dull, sharp))
    )
    assert better.promote, better.reason
    assert broken(worse) >= {"improvement"}
    assert "log_loss improves by -" in worse.reason


def test_a_model_is_not_promoted_over_its_own_copy(tmp_path: Path) -> None:
    sharp = classifier(tmp_path, SHARP)
    found = measured(Rules(), separable(), sharp, sharp)
    assert found.improvement == Improvement(0.0, 0.0, 0.0, 0.95)
    assert broken(judge(Rules(max_latency_ratio=0), found)) == {"improvement"}
    assert found.champion is not None
    assert found.champion.size_bytes == found.challenger.size_bytes == sharp.stat().st_size


@pytest.mark.parametrize(
    ("weights", "names", "why"),
    [
        (SHARP, {"source": "z"}, "its input z is not among the held-out inputs"),
        (np.ones((3, 2)), {}, r"its input x FP32\[-1, 3\] does not take float32\[300, 2\]"),
        (SHARP, {"target": "scores"}, "it has no output probabilities"),
        (np.ones((2, 1)), {}, r"its output probabilities has shape \[300, 1\], and a row is of class 1"),
        (np.ones((2, 3)), {}, r"answers in shape \[300, 3\], the challenger in \[300, 2\]"),
    ],
)
def test_what_serves_can_not_take_the_rows_and_the_reason_says_why(
    tmp_path: Path, weights: Any, names: dict[str, str], why: str
) -> None:
    live = classifier(tmp_path / "live", weights, **names)
    found = measured(Rules(), separable(), classifier(tmp_path / "new", SHARP), live)
    assert found.champion is None
    kept = judge(Rules(), found)
    assert broken(kept) == {"champion"}
    assert re.search(why, kept.reason)
    assert judge(Rules(incomparable="floor"), found).promote


def test_a_challenger_that_does_not_take_its_own_rows_is_broken(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"version 4 can't be judged .* its input z is not among"):
        measured(Rules(), separable(), classifier(tmp_path, SHARP, source="z"), None)


def test_a_challenger_that_answers_nan_is_broken(tmp_path: Path) -> None:
    file = classifier(tmp_path, [[np.nan, 1.0], [0.0, 0.0]])
    with pytest.raises(VerificationFailed, match="version 4 gives answers that are not finite"):
        measured(Rules(), separable(), file, None)


def test_junk_is_no_challenger(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(ArtifactRejected, match="not an ONNX model"):
        OnnxModel(tmp_path / "model.onnx", "version 4", Limits())


@pytest.mark.parametrize("rows", ["batch", 1, 7])
def test_answers_are_the_same_however_many_rows_a_request_takes(tmp_path: Path, rows: int | str) -> None:
    held_out = separable(600)
    logits = held_out.inputs["x"] @ np.array(SHARP)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with OnnxModel(classifier(tmp_path, SHARP, rows=rows), "m", Limits()) as model:
        assert model.answers(held_out) == pytest.approx(expected, abs=1e-5)
        (latency,) = latencies_ms([model], held_out, rows=64, rounds=3)
    assert latency > 0


def test_a_regression_is_scored_on_its_first_output(tmp_path: Path) -> None:
    onnx.save_model(times(2.0), str(tmp_path / "model.onnx"))
    x = RANDOM.normal(size=(40, 2)).astype(np.float32)
    held_out = HeldOut({"x": x}, x * np.float32(2.5), "regression")
    found = measured(Rules(), held_out, tmp_path / "model.onnx", None)
    assert found.challenger.scores["rmse"] == pytest.approx(0.5 * np.sqrt((x**2).mean()), rel=1e-5)
    assert found.challenger.scores["rmse"] < found.baseline


def never_ending(path: Path) -> Path:
    """A model of softmax(x @ SHARP) that computes for ever on a request with a number above 100."""
    file = classifier(path, SHARP)
    model = onnx.load_model(str(file))
    body = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in ("go", "x")],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_in", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, ["batch", 2]),
        ],
    )
    product, softmax = model.graph.node
    product.input[0] = "looped"
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "hundred"], ["waits"]),
        helper.make_node("Loop", ["turns", "waits", "x"], ["looped"], body=body),
        product,
        softmax,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.int64(2**62)), "turns"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(100)), "hundred"))
    onnx.save_model(model, str(file))
    return file


LIMITS = Limits(timeout_s=1.0, timeout_variable="GATE_TIMEOUT_S")


def test_a_challenger_that_computes_for_ever_is_stopped(tmp_path: Path) -> None:
    held_out = separable()
    file = never_ending(tmp_path)
    with OnnxModel(file, "version 4", LIMITS) as model:
        assert model.answers(held_out).shape == (300, 2)
    held_out.inputs["x"][270] = 101
    with (
        OnnxModel(file, "version 4", LIMITS) as model,
        pytest.raises(
            VerificationFailed, match="version 4 fails on held-out rows: it had not ended after 1 s"
        ) as refused,
    ):
        gather(Rules(), held_out, model, None)
    assert "GATE_TIMEOUT_S" in refused.value.hint


def test_a_champion_that_computes_for_ever_is_incomparable(tmp_path: Path) -> None:
    held_out = separable()
    held_out.inputs["x"][270] = 101
    with OnnxModel(classifier(tmp_path / "new", SHARP), "version 4", LIMITS) as model:
        found = gather(Rules(), held_out, model, Champion(release(), never_ending(tmp_path / "live")))
    assert found.champion is None
    assert "version 3, which serves, fails on held-out rows: it had not ended" in found.incomparable


def test_the_limits_of_the_gate_are_its_rule_and_the_deployers_memory() -> None:
    limits = limits_of(changed(Settings(), smoke__reference_memory_bytes=1 << 30), Rules(timeout_s=7))
    assert (limits.timeout_s, limits.memory_bytes) == (7, 1 << 30)


def test_each_measured_request_has_all_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that is left after the held-out rows is not enough for 20 s of measurements."""
    held_out = separable()
    with OnnxModel(classifier(tmp_path, SHARP), "m", LIMITS) as model:
        process = model._process
        monkeypatch.setattr(process, "_left_s", 1e-9)
        (latency,) = latencies_ms([model], held_out, rows=1, rounds=3)
    assert latency > 0


# What is told


def comparison(evidence: Evidence = EVIDENCE, unseen: float | None = 1.0) -> Comparison:
    return Comparison(
        model="m",
        version=4,
        run_id="r4",
        live=release() if evidence is not FIRST else None,
        evidence=evidence,
        unseen=unseen,
        rules=Rules(),
        verdict=judge(Rules(), evidence),
    )


def test_the_page_has_the_numbers_of_both_the_rules_and_what_the_champion_may_have_seen() -> None:
    text = page(comparison())
    assert "| | version 4, new | version 3, live |" in text
    assert "| log_loss (decides) | 0.5 | 0.5 |" in text
    assert "- yes: log_loss improves by 0.1" in text
    assert "200 held-out rows of run r4. 100% of them are known to be held out from version 3 too" in text
    assert "40% of them are known to be held out from version 3 too; it may have been trained on" in page(
        comparison(unseen=0.4)
    )
    assert "is not known: of its run there are no held-out rows that can be used" in page(
        comparison(unseen=None)
    )


def test_the_page_of_a_first_model_has_no_champion() -> None:
    text = page(comparison(FIRST))
    assert "| log_loss (decides) | 0.5 |  |" in text
    assert headline(comparison(FIRST)).startswith("Promote version 4 of m: nothing serves yet")


def test_a_refusal_says_what_is_kept() -> None:
    refused = comparison(replace(EVIDENCE, rows=3))
    assert headline(refused).startswith("Do not promote version 4 of m, version 3 is kept: 3 held-out rows")
    assert "- **no**: 3 held-out rows" in page(refused)
    assert tags(refused)["gate.verdict"] == "keep"


def test_what_is_recorded_is_plain_numbers_and_json() -> None:
    found = comparison()
    assert json.loads(json.dumps(found.to_dict()))["champion"] == {"version": 3, "generation": 5}
    assert numbers(found)["gate.improvement.low"] == 0.05
    assert all(isinstance(value, float) for value in numbers(found).values())
    assert "gate.improvement" not in numbers(comparison(FIRST))
    assert len(tags(comparison(replace(MISFIT, incomparable="x" * 900)))["gate.reason"]) == 500


def test_rows_that_both_held_out_are_counted_by_their_content() -> None:
    held_out = separable(10)
    again = HeldOut({"x": held_out.inputs["x"][::-1].copy()}, held_out.target[::-1].copy(), "classification")
    assert shared_rows(held_out, again) == 1.0
    half = HeldOut({"x": held_out.inputs["x"][:5]}, held_out.target[:5], "classification")
    assert shared_rows(held_out, half) == 0.5
    other_target = HeldOut({"x": held_out.inputs["x"]}, 1 - held_out.target, "classification")
    assert shared_rows(held_out, other_target) == 0.0


def test_the_command_line_refuses_rules_that_are_no_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["m", "4", "--rules", "[1]"]) == 3
    assert "--rules '[1]' is no JSON object" in capsys.readouterr().err
    assert command_line.main(["m", "4", "--rules", '{"margin": -1}']) == 3
    assert "GATE_MARGIN" in capsys.readouterr().err


# The alias


class KeptAliases:
    """Aliases in memory."""

    def __init__(self, **named: int) -> None:
        self.kept = named

    def named(self, model: str) -> Mapping[str, int]:
        return dict(self.kept)

    def point(self, model: str, alias: str, version: int | None) -> None:
        self.kept.pop(alias, None)
        if version is not None:
            self.kept[alias] = version


PROMOTION = Promotion(model="m", alias="A", version=4, alias_before=3, generation=5)


def deployment(state: State, deploy_id: str = "d") -> Deployment:
    return Deployment(
        deploy_id=deploy_id,
        model="m",
        state=state,
        pinned=Pinned(version=4, run_id="r4", alias="A", artifact_uri="", fingerprint=""),
        base_generation=5,
        base_version=3,
        actor="",
    )


def test_a_promotion_moves_the_alias_once() -> None:
    aliases = KeptAliases(A=3, B=1)
    promote(PROMOTION, aliases, release())
    promote(PROMOTION, aliases, release())
    assert aliases.kept == {"A": 4, "B": 1}
    first = KeptAliases()
    promote(replace(PROMOTION, alias_before=None, generation=0), first, None)
    assert first.kept == {"A": 4}


def test_an_alias_that_somebody_moved_since_stays_where_it_is() -> None:
    aliases = KeptAliases(A=7)
    with pytest.raises(Superseded, match="named version 3 when the gate looked, and version 7 now"):
        promote(PROMOTION, aliases, release())
    assert aliases.kept == {"A": 7}


@pytest.mark.parametrize("named", [3, 4])
def test_a_comparison_with_what_no_longer_serves_promotes_nothing(named: int) -> None:
    aliases = KeptAliases(A=named)
    with pytest.raises(Superseded, match="compared with release 5, and release 6 is live now"):
        promote(PROMOTION, aliases, release(generation=6))
    assert aliases.kept == {"A": named}


@pytest.mark.parametrize("state", [None, State.ROLLED_BACK, State.ROLLING_BACK])
@pytest.mark.parametrize("before", [3, None])
def test_the_alias_of_a_version_that_does_not_serve_names_what_it_named_before(
    state: State | None, before: int | None
) -> None:
    aliases = KeptAliases(A=4)
    told = settle(
        replace(PROMOTION, alias_before=before), aliases, release(), [deployment(state)] if state else [], "d"
    )
    assert aliases.kept == ({"A": 3} if before else {})
    assert told is not None
    assert told.endswith(f"it names {'version 3' if before else 'no version'} again.")


def test_the_alias_of_a_version_that_was_taken_back_names_what_took_its_place() -> None:
    aliases = KeptAliases(A=4)
    settle(PROMOTION, aliases, release(version=2, generation=7), [deployment(State.COMMITTED)], "d")
    assert aliases.kept == {"A": 2}


def test_the_alias_of_what_serves_stays() -> None:
    aliases = KeptAliases(A=4)
    told = settle(PROMOTION, aliases, release(version=4, generation=6), [deployment(State.COMMITTED)], "d")
    assert (told, aliases.kept) == ("Alias A of m names version 4, which serves.", {"A": 4})


@pytest.mark.parametrize("state", [State.ROLLED_BACK, State.COMMITTED, State.LOADED, None])
def test_an_alias_that_names_another_version_is_left_alone(state: State | None) -> None:
    aliases = KeptAliases(A=7)
    assert settle(PROMOTION, aliases, release(), [deployment(state)] if state else [], "d") is None
    assert aliases.kept == {"A": 7}


@pytest.mark.parametrize("deploy_id", ["d", "somebody-else"])
@pytest.mark.parametrize("state", [State.PINNED, State.SWITCHING, State.COMMITTING])
def test_nothing_is_settled_before_every_deployment_of_the_version_has_ended(
    state: State, deploy_id: str
) -> None:
    aliases = KeptAliases(A=4)
    others = [deployment(State.ROLLED_BACK), deployment(state, deploy_id)]
    with pytest.raises(
        Unavailable, match=f"Deployment {deploy_id} is {state}: alias A of m stays at version 4"
    ):
        settle(PROMOTION, aliases, release(), others, "d")
    assert aliases.kept == {"A": 4}
