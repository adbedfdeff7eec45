"""Make a version live again that was live before; in one task, because it is for when there is no time.

What is live stays live when the revert fails. Needs no MLflow.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, task

from ml_code.airflow_provider import (
    DeployNotifier,
    by_hand,
    known_params_only,
    limit,
    model_param,
    reason_param,
)
from ml_code.triton_deploy.rules.names import MAX_VERSION, MIN_VERSION
from ml_code.triton_deploy.settings import Settings

SETTINGS = Settings.from_env()

with DAG(
    dag_id="revert_triton",
    description="Make a version live again that was live before.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={"pre_execute": known_params_only},
    tags=["deploy", "triton"],
    doc_md=__doc__,
    params={
        "model": model_param(SETTINGS.default_model, "Model in Triton."),
        "to": Param(
            None,
            type=["null", "integer"],
            minimum=MIN_VERSION,
            maximum=MAX_VERSION,
            description="Version to go back to; empty: the one before the live one.",
        ),
        "reason": reason_param("Why, for the history."),
        "unverified": Param(
            False,
            type="boolean",
            description="Do not compare the version's files with what was released; for an emergency, needs a reason.",
        ),
    },
) as dag:
    task(
        # All steps in one task. It may load four times: to settle an abandoned deploy, to load the earlier
        # version into one Triton and then into the others, and to load the live version again if that
        # fails.
        execution_timeout=limit(
            4 * SETTINGS.triton.load_timeout_s,
            SETTINGS.triton.ready_timeout_s,
            35 * SETTINGS.triton.infer_timeout_s,
            SETTINGS.triton.trial_limit_s,
        ),
        retries=2,
        retry_delay=timedelta(seconds=5),
        on_success_callback=DeployNotifier("reverted"),
    )(by_hand.revert)()
