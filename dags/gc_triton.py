"""Remove versions that no recent release needs, old quarantines and old records.

Live and warm versions stay, versions to revert to stay, and so does everything that a deploy under way
needs: docs/repository.md has the rule.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param, task

from ml_code.airflow_provider import known_params_only, upkeep

with DAG(
    dag_id="gc_triton",
    description="Remove what the retention lets go.",
    schedule=timedelta(days=1),
    # Airflow needs a start_date; its value is irrelevant with catchup=False.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"pre_execute": known_params_only},
    tags=["triton"],
    doc_md=__doc__,
    params={
        "dry_run": Param(False, type="boolean", description="Log what would be removed, and change nothing.")
    },
) as dag:
    task(execution_timeout=timedelta(hours=1), retries=2, retry_delay=timedelta(seconds=10))(upkeep.gc)()
