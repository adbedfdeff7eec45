"""Make every Triton and the derived files agree with the last release.

Finishes or undoes deploys whose run timed out or was marked failed (Airflow skips the rollback then),
restores Tritons that restarted or that a person changed by a load call, and reports the rest. Does nothing
on a healthy system.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param, task

from ml_code.airflow_provider import known_params_only, upkeep
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()

with DAG(
    dag_id="reconcile_triton",
    description="Make Triton agree with what was committed.",
    schedule=timedelta(minutes=5),
    # Airflow needs a start_date; its value is irrelevant with catchup=False.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"pre_execute": known_params_only},
    # A deploy whose rollback Airflow skipped waits for this DAG, so the DAG runs without anyone's action.
    is_paused_upon_creation=False,
    tags=["triton"],
    doc_md=__doc__,
    params={
        "deep": Param(
            False, type="boolean", description="Read every byte of the loaded versions and compare."
        )
    },
) as dag:
    # Each model has its own deadlines; this limit is for all models in turn. The next run waits for this run.
    task(
        execution_timeout=timedelta(seconds=4 * SETTINGS.triton.load_timeout_s + 3600),
        retries=2,
        retry_delay=timedelta(seconds=10),
    )(upkeep.reconcile)()
