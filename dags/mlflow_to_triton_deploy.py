"""Deploy what an MLflow alias names to Triton, or change nothing.

Trigger it in Airflow's UI, by REST, or with ``airflow dags test``. What passes between the tasks is the deploy id alone,
which follows from the run id (or the ``deploy_id`` param), so every task finds its record on any worker.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.names import ALIAS_PATTERN, DEPLOY_ID_PATTERN, MODEL_PATTERN, deploy_id_for
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()
MARGIN_S = 600
"""Time for what a step does besides waiting for its own deadlines."""


def limit(*deadlines_s: float) -> timedelta:
    """Return a task's time limit: the deadlines inside, which come first and say what is the matter, and a margin."""
    return timedelta(seconds=sum(deadlines_s) + MARGIN_S)


def run_step(name: str) -> None:
    """Run one step of this run's deployment; an error that a retry can't mend fails the task at once."""
    from ml_code.triton_deploy.deployer import Deployer
    from ml_code.triton_deploy.intake import DeployRequest

    context = get_current_context()
    params: dict[str, Any] = dict(context["params"])
    run_id = str(context["run_id"])
    model, deploy_id = params["model"], params["deploy_id"] or deploy_id_for(run_id)
    deployer = Deployer(Settings.from_env())
    try:
        if name == "snapshot":
            deployer.snapshot(
                DeployRequest(
                    model=model,
                    alias=params["alias"],
                    deploy_id=deploy_id,
                    actor=f"airflow:{run_id}",
                    allow_schema_change=params["allow_schema_change"],
                    force=params["force"],
                )
            )
        else:
            getattr(deployer, name)(model, deploy_id)
    except DeployError as error:
        # A rollback is repeated whatever stopped it: a disk or a Triton may be back.
        if error.retryable or name == "rollback":
            raise
        raise AirflowFailException(str(error)) from error


with DAG(
    dag_id="mlflow_to_triton_deploy",
    description="An MLflow alias becomes what Triton serves, or nothing changes.",
    schedule=None,
    catchup=False,
    # One deploy at a time; the next run waits. A DAG run timeout would skip the rollback, so there is none.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["deploy", "mlflow", "triton"],
    doc_md=__doc__,
    params={
        "alias": Param("A", type="string", pattern=ALIAS_PATTERN, description="MLflow alias to deploy."),
        "model": Param(
            SETTINGS.default_model,
            type="string",
            pattern=MODEL_PATTERN,
            description="Model, in MLflow and in Triton.",
        ),
        "allow_schema_change": Param(
            False,
            type="boolean",
            description="Accept inputs and outputs that break clients of the live version.",
        ),
        "force": Param(False, type="boolean", description="Accept an artifact that failed before."),
        # Nullable: the form's Trigger button stays grey while a string that may not be null is empty.
        "deploy_id": Param(
            None,
            type=["null", "string"],
            pattern=f"^$|{DEPLOY_ID_PATTERN}",
            description="Ties single tasks together in 'airflow tasks test'; empty otherwise.",
        ),
    },
) as dag:
    # It may have to load what serves again, when it settles what an abandoned deploy left.
    @task(execution_timeout=limit(SETTINGS.alias_wait_s, SETTINGS.load_timeout_s))
    def snapshot_current() -> None:
        """Resolve the alias once and record what is to be deployed."""
        run_step("snapshot")

    @task(execution_timeout=timedelta(hours=1))
    def materialize_repo() -> None:
        """Stream the artifact into the model repository and check it."""
        run_step("materialize")

    @task(execution_timeout=limit(SETTINGS.load_timeout_s))
    def triton_load() -> None:
        """Load the candidate beside the live version."""
        run_step("load")

    @task(execution_timeout=limit(SETTINGS.ready_timeout_s))
    def triton_ready() -> None:
        """Ask every Triton for exactly this version."""
        run_step("ready")

    # A handful of inferences.
    @task(execution_timeout=limit(10 * SETTINGS.infer_timeout_s))
    def triton_infer_smoke() -> None:
        """Compare the candidate's answers with the expected ones."""
        run_step("smoke")

    # A flip that fails is undone at once; what serves may have to be loaded for that.
    @task(execution_timeout=limit(SETTINGS.infer_timeout_s, SETTINGS.load_timeout_s))
    def commit_current() -> None:
        """Make the candidate live."""
        run_step("commit")

    @task(
        trigger_rule=TriggerRule.ONE_FAILED,
        execution_timeout=limit(SETTINGS.load_timeout_s),
        retries=5,
        retry_delay=timedelta(seconds=5),
    )
    def rollback_minimal() -> None:
        """Put everything back and keep what failed."""
        run_step("rollback")

    # The run's state is its leaves': without this one, a rollback that succeeds would turn a failed deploy green.
    deployed = EmptyOperator(task_id="deployed", trigger_rule=TriggerRule.ALL_SUCCESS)

    steps = [
        snapshot_current(),
        materialize_repo(),
        triton_load(),
        triton_ready(),
        triton_infer_smoke(),
        commit_current(),
    ]
    chain(*steps, deployed)
    steps >> rollback_minimal()
