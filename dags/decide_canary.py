"""Decide on a canary that is under way, or look at it, from Airflow's UI.

The task's log says how the canary stands, and the key with which testers get the candidate. The run of the
deploy follows the decision at its next look, within seconds.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, task

from ml_code.airflow_provider import ONE_LINE, by_hand, known_params_only, model_param, reason_param
from ml_code.triton_deploy.deploy.canary_decisions import CHOICES
from ml_code.triton_deploy.rules.names import DEPLOY_ID_PATTERN
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()

with DAG(
    dag_id="decide_canary",
    description="Pause, promote or abort a canary that is under way, or look at it.",
    schedule=None,
    catchup=False,
    default_args={"pre_execute": known_params_only},
    tags=["deploy", "triton"],
    doc_md=__doc__,
    params={
        "model": model_param(SETTINGS.default_model, "Model in Triton."),
        "decision": Param(
            CHOICES[0],
            type="string",
            enum=list(CHOICES),
            description="status: only look; pause: its step does not end by itself; resume: take that back; promote: end its step now; "
            "abort: roll it back, and blame nobody.",
            **ONE_LINE,
        ),
        "reason": reason_param("Why, for the record."),
        "deploy_id": Param(
            None,
            type=["null", "string"],
            pattern=f"^$|{DEPLOY_ID_PATTERN}",
            description="The deployment that is meant; empty: the one under way.",
            **ONE_LINE,
        ),
    },
) as dag:
    decide = task(execution_timeout=timedelta(minutes=5), retries=2, retry_delay=timedelta(seconds=5))(
        by_hand.decide
    )
    decide()
