"""Deploy what an MLflow alias names to Triton, or change nothing.

Trigger it in Airflow's UI, by REST, or with ``airflow dags test``. Only the deploy id passes between the
tasks. It follows from the run id (or the ``deploy_id`` param), so every task finds its record on any
worker.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from ml_code.airflow_provider import ONE_LINE, bake_minutes, deploy_tasks, known_params_only, model_param
from ml_code.triton_deploy.rules.canary import STEP_MINUTES, STEPS_PATTERN
from ml_code.triton_deploy.rules.names import ALIAS_PATTERN, DEPLOY_ID_PATTERN
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()

with DAG(
    dag_id="mlflow_to_triton_deploy",
    description="An MLflow alias becomes what Triton serves, or nothing changes.",
    schedule=None,
    catchup=False,
    # One deploy at a time; the next run waits. A DAG run timeout would skip the rollback, so there is none.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10), "pre_execute": known_params_only},
    tags=["deploy", "mlflow", "triton"],
    doc_md=__doc__,
    params={
        "alias": Param(
            "A",
            type="string",
            pattern=ALIAS_PATTERN,
            description="MLflow alias to deploy: letters, digits, - and _; neither 'latest' nor 'v' with a number.",
            **ONE_LINE,
        ),
        "model": model_param(
            SETTINGS.default_model, "Model, in MLflow and in Triton: letters, digits, - and _."
        ),
        "allow_schema_change": Param(
            False,
            type="boolean",
            description="Accept inputs and outputs that break clients of the live version.",
        ),
        "force": Param(False, type="boolean", description="Accept an artifact that failed before."),
        "canary": Param(
            None,
            type=["null", "string"],
            pattern=f"^$|{STEPS_PATTERN}",
            description="Shares of the clients' requests that it answers before it is committed, percent, such as 5,25,50; 'pause' after one waits for a person there (5,pause,50); empty: none.",
            **ONE_LINE,
        ),
        "canary_minutes": Param(
            STEP_MINUTES,
            type="number",
            exclusiveMinimum=0,
            maximum=480,
            description="How long each of those steps is watched at least, minutes.",
        ),
        "shadow_percent": Param(
            0,
            type="integer",
            minimum=0,
            maximum=100,
            description="Share of the requests that are mirrored to it before, for as long; 0: none.",
        ),
        "bake_minutes": bake_minutes(),
        # Nullable: the form's Trigger button stays grey while a string that may not be null is empty.
        "deploy_id": Param(
            None,
            type=["null", "string"],
            pattern=f"^$|{DEPLOY_ID_PATTERN}",
            description="Ties single tasks together in 'airflow tasks test'; empty otherwise.",
            **ONE_LINE,
        ),
    },
) as dag:
    deploy_tasks(SETTINGS)
