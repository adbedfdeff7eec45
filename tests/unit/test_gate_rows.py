"""Held-out rows that somebody changed after training decide nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ml_code.gate import sources
from ml_code.gate.champion_rows import contradicted_rows, improvement_on
from ml_code.gate.evaluation import gather
from ml_code.gate.judgement import Evidence, Measured, judge
from ml_code.gate.measuring import OnnxModel
from ml_code.gate.rules import Rules
from ml_code.gate.scores import METRICS, Improvement
from ml_code.gate.sources import Challengers, Champion
from ml_code.training.heldout import DIGEST_TAG, HeldOut
from ml_code.triton_deploy.errors import ArtifactRejected
from ml_code.triton_deploy.model.reference_limits import Limits
from ml_code.triton_deploy.rules.release import Release
from ml_code.triton_deploy.settings import Settings
from tests.support.fakes import fake_store
from tests.support.labelled import BAD, GOOD, classifier, labelled
from tests.support.settings import changed

LIMITS = Limits()
RULES = Rules(max_latency_ratio=0, max_size_ratio=0, max_ece_increase=1)
EVIDENCE = Evidence(
    rows=200,
    metric=METRICS["log_loss"],
    challenger=Measured(scores={"log_loss": 0.3}, latency_ms=1.0, size_bytes=1000),
    champion=Measured(scores={"log_loss": 0.4}, latency_ms=1.0, size_bytes=1000),
    incomparable="",
    improvement=Improvement(0.1, 0.05, 0.15, 0.95),
    baseline=0.69,
)
"""Of a version that is promoted."""


def saved(folder: Path, weights: Any) -> Path:
    folder.mkdir(parents=True)
    onnx.save_model(classifier(weights), str(folder / "model.onnx"))
    return folder / "model.onnx"


def release() -> Release:
    return Release(
        model="m",
        generation=5,
        active_version=3,
        run_id="r3",
        alias="A",
        digest="d",
        previous_version=None,
        warm_versions=(),
        deploy_id="before",
        actor="",
        updated_at_utc="2026-01-02T03:04:05+00:00",
    )


@dataclass
class Registry:
    """MLflow, of which a test says the run's tags."""

    tags: Mapping[str, str]

    def run_place(self, run_id: str, path: str) -> str:
        return f"fake://runs/{run_id}/{path}"

    def run_tags(self, run_id: str) -> Mapping[str, str]:
        return self.tags


def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tags: Mapping[str, str], stored: HeldOut) -> Any:
    """What the gate gets of a run with these tags and this file."""
    challengers = Challengers(changed(Settings(), mlflow__tracking_uri="http://mlflow"))
    challengers._registry = Registry(tags)  # type: ignore[assignment]
    with fake_store() as store:
        store.objects["fake://runs/r4/evaluation/heldout.npz"] = stored.to_bytes()
        monkeypatch.setattr(sources, "store_for", lambda uri, settings: store)
        return challengers.held_out("r4", tmp_path)


def digest_of(held_out: HeldOut) -> dict[str, str]:
    return {DIGEST_TAG: hashlib.sha256(held_out.to_bytes()).hexdigest()}


def test_rows_of_the_recorded_digest_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = kept(monkeypatch, tmp_path, digest_of(labelled(0, 1)), labelled(0, 1))
    assert found.pinned
    assert found.held_out.rows == 200


def test_rows_that_were_replaced_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejected, match="are not those that training recorded") as raised:
        kept(monkeypatch, tmp_path, digest_of(labelled(0, 1)), labelled(1, 2))
    assert raised.value.exit_code == 4


def test_rows_without_a_digest_are_taken_and_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not kept(monkeypatch, tmp_path, {}, labelled(0, 1)).pinned


def measured(tmp_path: Path, own: HeldOut, theirs: HeldOut | None, new: Any, live: Any) -> Evidence:
    champion = Champion(release(), saved(tmp_path / "live", live))
    with OnnxModel(saved(tmp_path / "new", new), "version 4", LIMITS) as challenger:
        return gather(RULES, own, challenger, champion, theirs)


def test_rows_of_the_challengers_own_choice_promote_nothing_that_is_worse_on_the_champions(
    tmp_path: Path,
) -> None:
    """A worse model with a set of its own, in which its answers are right."""
    forged = labelled(1, 2)
    alone = measured(tmp_path / "alone", forged, None, BAD, GOOD)
    assert judge(RULES, alone).promote, "nothing else is wrong with it"
    found = measured(tmp_path / "both", forged, labelled(0, 1), BAD, GOOD)
    verdict = judge(RULES, found)
    assert [check.name for check in verdict.checks if not check.holds] == ["champion_rows"]
    assert "on the champion's own held-out rows log_loss worsens by" in verdict.reason
    assert judge(replace(RULES, champion_rows="note"), found).promote


def test_a_better_model_is_better_on_the_champions_rows_too(tmp_path: Path) -> None:
    found = measured(tmp_path, labelled(0, 1), labelled(0, 2), GOOD, BAD)
    assert found.on_champion_rows is not None
    assert found.on_champion_rows.low > 0
    assert judge(RULES, found).promote


def test_a_row_that_the_champion_knows_with_another_target_contradicts_it() -> None:
    theirs = labelled(0, 1)
    other = theirs.target.copy()
    other[:7] = 1 - other[:7]
    own = HeldOut(theirs.inputs, other, "classification")
    assert contradicted_rows(own, theirs) == 7
    assert contradicted_rows(theirs, theirs) == 0
    assert contradicted_rows(labelled(0, 2), theirs) == 0
    assert contradicted_rows(own, None) == 0


def test_other_targets_refuse_rows_that_nobody_pinned() -> None:
    """Where training recorded the rows, labels vary or were corrected."""
    found = replace(EVIDENCE, contradicted=7)
    pinned = judge(RULES, found)
    said = "7 held-out rows are also held out by the champion's run, with another target"
    assert pinned.promote
    assert said in [check.text for check in pinned.checks]
    unpinned = replace(found, pinned=False)
    assert judge(RULES, unpinned).reason == said
    assert judge(replace(RULES, champion_rows="note"), unpinned).promote


def test_inputs_with_several_targets_contradict_nothing() -> None:
    x = np.zeros((2, 1), np.float32)
    theirs = HeldOut({"x": x}, np.array([0, 1]), "classification")
    assert contradicted_rows(HeldOut({"x": x[:1]}, np.array([1]), "classification"), theirs) == 0
    assert contradicted_rows(HeldOut({"x": x[:1]}, np.array([2]), "classification"), theirs) == 1


def test_rows_that_a_model_does_not_take_are_no_second_opinion(tmp_path: Path) -> None:
    other = HeldOut({"y": np.zeros((9, 2), np.float32)}, np.zeros(9, np.int64), "classification")
    with (
        OnnxModel(saved(tmp_path / "a", GOOD), "a", LIMITS) as one,
        OnnxModel(saved(tmp_path / "b", GOOD), "b", LIMITS) as two,
    ):
        assert improvement_on(RULES, METRICS["log_loss"], other, one, two) is None
        assert improvement_on(RULES, METRICS["log_loss"], None, one, two) is None
        assert improvement_on(RULES, METRICS["rmse"], labelled(0, 1), one, two) is None


def test_unpinned_rows_are_refused_where_the_rule_says_so() -> None:
    found = replace(EVIDENCE, pinned=False)
    accepted = judge(RULES, found)
    assert accepted.promote
    assert any(check.name == "pinned" for check in accepted.checks), "and it is said"
    assert "nobody knows" in judge(replace(RULES, unpinned_rows="refuse"), found).reason
