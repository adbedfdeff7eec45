"""Deploy an alias that was moved in MLflow: one DAG for each entry of TRITON_EVENTS_WATCH.

Airflow's triggerer sees the move. An event is a hint: the deploy itself asks MLflow for the version of the
alias, and does nothing when that version is live. There are several DAGs because Airflow 3.3 starts a run
with the first of several events and leaves the others to the next run: events of one alias may be left,
events of another alias may not.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, Asset, AssetWatcher

from ml_code.airflow_provider import known_params_only
from ml_code.alias_events.settings import EventSettings
from ml_code.triton_deploy.settings import Settings

SETTINGS = EventSettings.from_env()
POLL_S = Settings.from_env().mlflow.alias_poll_s


def deploys(model: str, alias: str) -> DAG:
    """Return the DAG that deploys one alias when it was moved."""
    # Imported here: a parse of this file without a watched alias needs neither.
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

    from ml_code.airflow_provider import AliasTrigger

    name = f"{model}.{alias}"
    watcher = AssetWatcher(name=name, trigger=AliasTrigger(model=model, alias=alias, poll_s=POLL_S))
    with DAG(
        dag_id=f"deploy_on_alias.{name}",
        description=f"Deploy {model} when its alias {alias} was moved in MLflow.",
        schedule=[Asset(f"mlflow_alias.{name}", watchers=[watcher])],
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args={"pre_execute": known_params_only},
        # Setting TRITON_EVENTS_WATCH is the decision to follow the alias.
        is_paused_upon_creation=False,
        tags=["deploy", "mlflow", "triton"],
        doc_md=__doc__,
    ) as dag:
        TriggerDagRunOperator(
            task_id="trigger_deploy",
            trigger_dag_id=SETTINGS.dag_id,
            # The same run id at each try: a try that was killed after its request has triggered the run
            # all the same.
            trigger_run_id=f"{name}__{{{{ run_id }}}}",
            conf={"model": model, "alias": alias},
            logical_date=None,
            skip_when_already_exists=True,
            retries=2,
        )
    return dag


dags = [deploys(pair.model, pair.alias) for pair in SETTINGS.watched]
