"""Remove what the retention lets go: versions that no release of the last ones needs, old quarantines and records.

What is live, warm or may be reverted to stays, and so does what a deploy under way needs; docs/repository.md has the rule.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from ml_code.airflow_provider.run_params import known_params_only
from ml_code.triton_deploy.settings import Settings

with DAG(
    dag_id="gc_triton",
    description="Remove what the retention lets go.",
    schedule=timedelta(days=1),
    # Without a start nothing is scheduled; without catch-up it does not matter which.
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

    @task(execution_timeout=timedelta(hours=1), retries=2, retry_delay=timedelta(seconds=10))
    def gc() -> list[dict[str, str]]:
        """Collect every model of the repository; the next run tries again what failed, and a next try what was killed."""
        from ml_code.triton_deploy.upkeep.gc import GarbageCollector

        dry_run = get_current_context()["params"]["dry_run"]
        results = GarbageCollector(Settings.from_env()).run_all(dry_run=dry_run)
        problems = [f"{result.model}: {problem}" for result in results for problem in result.problems]
        if problems:
            raise AirflowFailException("; ".join(problems))
        return [
            {"model": result.model, "kind": removed.kind.value, "name": removed.name, "why": removed.why}
            for result in results
            for removed in result.removed
        ]

    gc()
