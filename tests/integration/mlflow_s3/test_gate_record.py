"""A verdict of the gate when the challenger's run is gone from MLflow: the version gets it all the same."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import requests

from ml_code.gate.evaluation import Comparison
from ml_code.gate.judgement import Evidence, GateVerdict, Measured
from ml_code.gate.record import record
from ml_code.gate.rules import Rules
from ml_code.gate.scores import METRICS
from ml_code.gate.sources import Challengers
from ml_code.triton_deploy.clients.mlflow_board import MlflowBoard
from ml_code.triton_deploy.errors import NotFound
from ml_code.triton_deploy.settings import Settings
from stack import Stack
from tests.support.models import files, times
from tests.support.servers.publisher import Publisher

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(mlflow_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in mlflow_stack.environment.items():
        monkeypatch.setenv(name, value)
    return Settings.from_env()


def comparison(model: str, version: int, run_id: str) -> Comparison:
    measured = Measured(scores={"rmse": 1.0}, latency_ms=1.0, size_bytes=1)
    evidence = Evidence(
        rows=10,
        metric=METRICS["rmse"],
        challenger=measured,
        champion=None,
        incomparable="",
        improvement=None,
        baseline=2.0,
    )
    return Comparison(
        model=model,
        version=version,
        run_id=run_id,
        live=None,
        evidence=evidence,
        unseen=None,
        rules=Rules(),
        verdict=GateVerdict(promote=True, reason="better than a constant"),
    )


@pytest.mark.parametrize("purged", [False, True])
def test_a_verdict_on_a_version_whose_run_is_gone_is_written_to_the_version(
    mlflow_stack: Stack, settings: Settings, purged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = f"m-{uuid.uuid4().hex[:12]}"
    version = Publisher(mlflow_stack.environment).publish(model, files(times(1)))
    board = MlflowBoard(settings)
    run_id = board.versions(model)[version].origin.run_id
    if purged:
        run_id = uuid.uuid4().hex
    else:
        url = f"{settings.mlflow.tracking_url}/api/2.0/mlflow/runs/delete"
        requests.post(url, json={"run_id": run_id}, timeout=30).raise_for_status()
    record(settings, comparison(model, version, run_id))
    assert board.versions(model)[version].tags["gate.verdict"] == "promote"
    assert f"run {run_id} is deleted in MLflow" in caplog.text


def test_a_version_whose_run_is_gone_has_no_rows_to_be_judged_on(settings: Settings, tmp_path: Path) -> None:
    gone, challengers = uuid.uuid4().hex, Challengers(settings)
    with pytest.raises(NotFound, match=f"Run {gone} is gone from MLflow") as failure:
        challengers.held_out(gone, tmp_path)
    assert "triton-deploy deploy" in failure.value.hint
    assert challengers.held_out_of(gone, tmp_path) is None
