"""Make every Triton and the derived files agree with what was committed.

Finishes or undoes deploys whose run timed out or was marked failed (Airflow skips the rollback then), restores what a restarted
Triton or a person's own load call changed, and reports what it can't put right. Does nothing on a healthy system.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()

with DAG(
    dag_id="reconcile_triton",
    description="Make Triton agree with what was committed.",
    schedule=timedelta(minutes=5),
    # Without a start nothing is scheduled; without catch-up it does not matter which.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["triton"],
    doc_md=__doc__,
    params={
        "deep": Param(
            False, type="boolean", description="Read every byte of the loaded versions and compare."
        )
    },
) as dag:

    @task(execution_timeout=timedelta(seconds=SETTINGS.load_timeout_s + 600), retries=0)
    def reconcile() -> None:
        """Reconcile every model of the repository; the next run tries again what failed."""
        from ml_code.triton_deploy.reconcile import Reconciler
        from ml_code.triton_deploy.repository import models_in

        settings = Settings.from_env()
        reconciler = Reconciler(settings)
        deep = get_current_context()["params"]["deep"]
        results = [reconciler.run(model, deep=deep) for model in models_in(settings.repository_root)]
        problems = [f"{result.model}: {problem}" for result in results for problem in result.problems]
        if problems:
            raise AirflowFailException("; ".join(problems))

    reconcile()
