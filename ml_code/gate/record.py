"""Writes a comparison into MLflow: metrics, tags and artifacts of the run, and tags of the version."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from ..triton_deploy.errors import Unavailable
from ..triton_deploy.settings import Settings
from .evaluation import Comparison
from .report import headline, page

LONGEST_TAG = 500

log = logging.getLogger(__name__)


def numbers(comparison: Comparison) -> dict[str, float]:
    """Return the metrics of the run, by name."""
    evidence = comparison.evidence
    found: dict[str, float] = {}
    for role, measured in (("challenger", evidence.challenger), ("champion", evidence.champion)):
        if measured:
            found |= {f"gate.{role}.{name}": value for name, value in measured.scores.items()}
            found[f"gate.{role}.latency_ms"] = measured.latency_ms
            found[f"gate.{role}.size_bytes"] = float(measured.size_bytes)
    if evidence.improvement:
        found["gate.improvement"] = evidence.improvement.estimate
        found["gate.improvement.low"] = evidence.improvement.low
        found["gate.improvement.high"] = evidence.improvement.high
    return found


def tags(comparison: Comparison) -> dict[str, str]:
    """Return the tags of the run and of the version."""
    return {
        "gate.verdict": "promote" if comparison.verdict.promote else "keep",
        "gate.reason": headline(comparison)[:LONGEST_TAG],
        "gate.champion": str(comparison.live.active_version) if comparison.live else "none",
    }


def record(settings: Settings, comparison: Comparison) -> None:
    """Write a comparison into MLflow.

    Args:
        settings: where MLflow is.
        comparison: what to write.

    Raises:
        Unavailable: MLflow or its artifact store refused or did not answer.
    """
    # MLflow's client reads these at every request. Its defaults retry for minutes; values that the user
    # has set win.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", f"{settings.mlflow.timeout_s:.0f}")
    # The settings have moved user and password out of the address, so the client needs them here.
    if settings.mlflow.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = settings.mlflow.username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.mlflow.password
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    client: Any = MlflowClient(tracking_uri=settings.mlflow.tracking_url)
    now_ms = int(time.time() * 1000)
    try:
        if _takes_records(client, comparison.run_id):
            client.log_batch(
                comparison.run_id,
                metrics=[Metric(name, value, now_ms, 0) for name, value in numbers(comparison).items()],
                tags=[RunTag(name, value) for name, value in tags(comparison).items()],
            )
            client.log_text(
                comparison.run_id, json.dumps(comparison.to_dict(), indent=2), "gate/verdict.json"
            )
            client.log_text(comparison.run_id, page(comparison), "gate/verdict.md")
        for name, value in tags(comparison).items():
            client.set_model_version_tag(comparison.model, str(comparison.version), name, value)
    # MLflow passes on every exception of its store's client: there is no narrower type.
    except Exception as error:
        raise Unavailable(
            f"The verdict could not be written to MLflow: {type(error).__name__}: {error}",
            hint="Check that MLflow and its artifact store run; the gate can be asked again.",
        ) from error


def _takes_records(client: Any, run_id: str) -> bool:
    """Whether MLflow accepts writes to a run: it refuses them for a deleted or purged run."""
    from mlflow.exceptions import MlflowException

    try:
        deleted = client.get_run(run_id).info.lifecycle_stage != "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        deleted = True
    if deleted:
        log.warning("run %s is deleted in MLflow: the verdict is written to the version alone", run_id)
    return not deleted
