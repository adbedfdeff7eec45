"""Train a model, compare it with what serves, and deploy it when it is better; nothing changes when it is not.

`gate` says why a version is promoted or not: in its log, as the result of `evaluate`, and in MLflow at the run. A version that is not
promoted, or whose approval is refused or not given in time, leaves a green run whose further tasks are skipped. The alias moves
after all of that, and back when what it names does not serve in the end.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ml_code.airflow_provider.deploy_run import deploy_id_of, no_vain_retries
from ml_code.airflow_provider.deploy_tasks import bake_minutes, deploy_tasks, limit
from ml_code.airflow_provider.run_params import ONE_LINE, known_params_only, own_deployment_only
from ml_code.gate.settings import RetrainSettings
from ml_code.triton_deploy.rules.names import ALIAS_PATTERN, MODEL_PATTERN
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()
RETRAIN = RetrainSettings.from_env()
DECISION = "{{ ti.xcom_pull(task_ids='evaluate')['%s'] }}"
"""A template for a part of what `evaluate` found."""

log = logging.getLogger(__name__)


def promotion_of(decision: dict[str, Any], params: dict[str, Any]) -> Any:
    """Return what `evaluate` let through."""
    from ml_code.gate.promotion import Promotion

    return Promotion(
        model=params["model"],
        alias=params["alias"],
        version=decision["version"],
        alias_before=decision["alias_before"],
        generation=decision["generation"],
    )


with DAG(
    dag_id="retrain_and_deploy",
    description="Train, compare with what serves, and deploy what is better.",
    schedule=None if RETRAIN.schedule == "off" else RETRAIN.schedule,
    # Without a start nothing is scheduled; without catch-up it does not matter which.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # A DAG run timeout would skip the rollback, so there is none.
    max_active_runs=1,
    # It trains and deploys by itself, so somebody has to want that.
    is_paused_upon_creation=True,
    # The moved alias may make another DAG deploy the same version: this one waits for it, and finds it live.
    default_args={"retries": 5, "retry_delay": timedelta(seconds=15), "pre_execute": known_params_only},
    tags=["deploy", "mlflow", "training", "triton"],
    doc_md=__doc__,
    params={
        "model": Param(
            SETTINGS.default_model,
            type="string",
            pattern=MODEL_PATTERN,
            description="Model, in MLflow and in Triton.",
            **ONE_LINE,
        ),
        "alias": Param(
            RETRAIN.alias,
            type="string",
            pattern=ALIAS_PATTERN,
            description="Alias that a promoted version gets.",
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

    @task(execution_timeout=timedelta(seconds=RETRAIN.train_timeout_s), retries=2)
    def train() -> dict[str, Any]:
        """Train a model, check its export and register it; no alias moves."""
        from ml_code.gate.rules import Rules
        from ml_code.train_model import train_and_register
        from ml_code.training.errors import DataError, RegistryError, TrainingError
        from ml_code.training.request import TrainingRequest

        params = get_current_context()["params"]
        try:
            # Rules that can't be meant cost no training.
            with no_vain_retries():
                Rules.from_env().overridden(params["rules"])
            registered = train_and_register(
                TrainingRequest(
                    model=params["model"],
                    alias=None,
                    trainer=params["trainer"],
                    options=params["options"],
                    experiment=RETRAIN.experiment,
                    # For a JSON schema, 7.0 is a whole number.
                    seed=int(params["seed"]),
                    parity_tolerance=params["parity_tolerance"],
                )
            )
        # MLflow, or where the data is, may be back.
        except (DataError, RegistryError):
            raise
        except TrainingError as error:
            raise AirflowFailException(f"{error} {error.hint}") from error
        return {"version": registered.version, "run_id": registered.run_id}

    @task(execution_timeout=timedelta(hours=1))
    def evaluate(trained: Any) -> dict[str, Any]:
        """Compare the new version with what serves, on the rows that its training held out; MLflow keeps the numbers."""
        from ml_code.gate.evaluation import compare
        from ml_code.gate.promotion import MlflowAliases
        from ml_code.gate.record import record
        from ml_code.gate.report import headline, page
        from ml_code.gate.rules import Rules

        params = get_current_context()["params"]
        settings = Settings.from_env()
        with no_vain_retries():
            named = MlflowAliases(settings).named(params["model"]).get(params["alias"])
            rules = Rules.from_env().overridden(params["rules"])
            comparison = compare(settings, rules, params["model"], trained["version"])
            record(settings, comparison)
        log.info("\n%s", page(comparison))
        return {
            "promote": comparison.verdict.promote,
            "headline": headline(comparison),
            "page": page(comparison),
            "version": comparison.version,
            "run_id": comparison.run_id,
            "generation": comparison.generation,
            "alias_before": named,
        }

    @task.branch
    def gate(decision: Any) -> str | None:
        """Go on with a version that is better; otherwise the rest of the run is skipped."""
        log.info(decision["headline"])
        if not decision["promote"]:
            return None
        return "approve_promotion" if get_current_context()["params"]["approval"] else "promote"

    approve_promotion = ApprovalOperator(
        task_id="approve_promotion",
        subject=f"Promote version {DECISION % 'version'} of {{{{ params.model }}}} to alias {{{{ params.alias }}}}, and deploy it?",
        body=DECISION % "page",
        # Whoever does not answer has not approved.
        defaults=ApprovalOperator.REJECT,
        response_timeout=timedelta(seconds=RETRAIN.approval_timeout_s),
        ignore_downstream_trigger_rules=True,
    )

    @task(
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        execution_timeout=limit(4 * SETTINGS.mlflow_timeout_s),
    )
    def promote(decision: Any) -> dict[str, Any]:
        """Make the alias name the new version, if all that was compared is still so."""
        from ml_code.gate.promotion import MlflowAliases
        from ml_code.gate.promotion import promote as move_alias
        from ml_code.triton_deploy.repository import ModelFolder

        settings, params = Settings.from_env(), dict(get_current_context()["params"])
        with no_vain_retries():
            live = ModelFolder.at(settings.repository_root, params["model"]).releases.latest()
            move_alias(promotion_of(decision, params), MlflowAliases(settings), live)
        return {"version": decision["version"], "reason": decision["headline"]}

    @task(
        trigger_rule=TriggerRule.ALL_DONE,
        execution_timeout=limit(4 * SETTINGS.mlflow_timeout_s),
        # Another deployment of the version may have to end first.
        retries=10,
        retry_delay=timedelta(seconds=30),
        pre_execute=own_deployment_only,
    )
    def settle_alias() -> None:
        """Bring the alias back when what it names does not serve in the end."""
        from ml_code.gate.promotion import MlflowAliases, settle
        from ml_code.triton_deploy.repository import ModelFolder

        context = get_current_context()
        settings, params = Settings.from_env(), dict(context["params"])
        decision = context["ti"].xcom_pull(task_ids="evaluate")
        if not decision or not decision["promote"]:
            raise AirflowSkipException("Nothing was promoted.")
        with no_vain_retries():
            folder = ModelFolder.at(settings.repository_root, params["model"])
            done = settle(
                promotion_of(decision, params),
                MlflowAliases(settings),
                folder.releases.latest(),
                folder.journal.all(),
                deploy_id_of(context),
            )
        if done is None:
            raise AirflowSkipException("The alias does not name this run's version: it is left as it is.")
        log.info(done)

    # The run's state is its leaves': a deploy that failed makes a failed run, whatever came of the alias.
    retrained = EmptyOperator(task_id="retrained", trigger_rule=TriggerRule.ALL_SUCCESS)

    decision = evaluate(train())
    chosen, promoted = gate(decision), promote(decision)
    deploy = deploy_tasks(SETTINGS, promoted_by="promote")
    chain(chosen, approve_promotion, promoted, deploy.snapshot)
    chosen >> promoted
    [deploy.deployed, deploy.rollback] >> settle_alias() >> retrained
    deploy.deployed >> retrained
