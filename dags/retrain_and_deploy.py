"""Train a model, compare it with the live version, and deploy it when it is better; else nothing changes.

`gate` says why a version is promoted or not: in its log, as the result of `evaluate`, and in MLflow at the
run. A version that is not promoted, or whose approval is refused or not given in time, leaves a green run
whose further tasks are skipped. The alias moves after all of that, and moves back when its version does
not serve in the end.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, task

from ml_code.airflow_provider import (
    ONE_LINE,
    bake_minutes,
    deploy_tasks,
    known_params_only,
    limit,
    model_param,
    own_deployment_only,
    retrain,
)
from ml_code.gate.settings import RetrainSettings
from ml_code.triton_deploy.rules.names import ALIAS_PATTERN
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()
RETRAIN = RetrainSettings.from_env()
DECISION = "{{ ti.xcom_pull(task_ids='evaluate')['%s'] }}"
"""Template for a field of `evaluate`'s result."""

with DAG(
    dag_id="retrain_and_deploy",
    description="Train, compare with what serves, and deploy what is better.",
    schedule=None if RETRAIN.schedule == "off" else RETRAIN.schedule,
    # Airflow needs a start_date; its value is irrelevant with catchup=False.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # A DAG run timeout would skip the rollback, so there is none.
    max_active_runs=1,
    # This DAG trains and deploys on a schedule, so a person has to switch it on.
    is_paused_upon_creation=True,
    # The moved alias may make another DAG deploy the same version: this DAG waits for that deploy, and
    # finds it live.
    default_args={"retries": 5, "retry_delay": timedelta(seconds=15), "pre_execute": known_params_only},
    tags=["deploy", "mlflow", "training", "triton"],
    doc_md=__doc__,
    params={
        "model": model_param(
            SETTINGS.default_model, "Model, in MLflow and in Triton: letters, digits, - and _."
        ),
        "alias": Param(
            RETRAIN.alias,
            type="string",
            pattern=ALIAS_PATTERN,
            description="Alias that a promoted version gets: letters, digits, - and _; neither 'latest' nor 'v' with a number.",
            **ONE_LINE,
        ),
        "trainer": Param(
            RETRAIN.trainer, type="string", minLength=1, maxLength=100, description="What trains.", **ONE_LINE
        ),
        "options": Param(
            dict(RETRAIN.trainer_options), type="object", description="The trainer's options, as JSON."
        ),
        "seed": Param(
            7,
            type="integer",
            minimum=0,
            maximum=2**32 - 1,
            description="Seed of all that is random. The same one holds the same rows out each night.",
        ),
        "parity_tolerance": Param(
            1e-4,
            type="number",
            exclusiveMinimum=0,
            description="Largest accepted difference between the trained model and its export.",
        ),
        "rules": Param(
            {}, type="object", description='Rules of the gate that differ, as JSON: {"metric": "accuracy"}.'
        ),
        "approval": Param(
            RETRAIN.approval == "required", type="boolean", description="A person has to approve a promotion."
        ),
        "allow_schema_change": Param(
            False,
            type="boolean",
            description="Accept inputs and outputs that break clients of the live version.",
        ),
        "bake_minutes": bake_minutes(),
    },
) as dag:
    train = task(execution_timeout=timedelta(seconds=RETRAIN.train_timeout_s), retries=2)(retrain.train)
    evaluate = task(execution_timeout=timedelta(hours=1))(retrain.evaluate)
    gate = task.branch(retrain.gate)
    approve_promotion = ApprovalOperator(
        task_id="approve_promotion",
        subject=f"Promote version {DECISION % 'version'} of {{{{ params.model }}}} to alias {{{{ params.alias }}}}, and deploy it?",
        body=DECISION % "page",
        # No answer in time is a refusal.
        defaults=ApprovalOperator.REJECT,
        response_timeout=timedelta(seconds=RETRAIN.approval_timeout_s),
        ignore_downstream_trigger_rules=True,
    )

    promote = task(
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        execution_timeout=limit(4 * SETTINGS.mlflow.timeout_s),
    )(retrain.promote)
    settle_alias = task(
        trigger_rule=TriggerRule.ALL_DONE,
        execution_timeout=limit(4 * SETTINGS.mlflow.timeout_s),
        # Another deployment of the version may have to end first.
        retries=10,
        retry_delay=timedelta(seconds=30),
        pre_execute=own_deployment_only,
    )(retrain.settle_alias)
    # Airflow takes a run's state from its leaves: a failed deploy has to fail the run, even if the alias
    # was settled.
    retrained = EmptyOperator(task_id="retrained", trigger_rule=TriggerRule.ALL_SUCCESS)

    decision = evaluate(train())
    chosen, promoted = gate(decision), promote(decision)
    deploy = deploy_tasks(SETTINGS, promoted_by="promote")
    chain(chosen, approve_promotion, promoted, deploy.snapshot)
    chosen >> promoted
    [deploy.deployed, deploy.rollback] >> settle_alias() >> retrained
    deploy.deployed >> retrained
