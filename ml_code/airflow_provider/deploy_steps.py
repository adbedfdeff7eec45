"""The steps of a deploy: each task of ``deploy_tasks`` calls one of these functions.

A step acts on the deployment of its task's run. It imports the deployer when it runs, since Airflow parses
a DAG file all the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from ..triton_deploy.rules.canary import STEP_MINUTES, canary_of
from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of, no_vain_retries

if TYPE_CHECKING:
    from ..triton_deploy.deploy.deployer import Deployer


def snapshot(promoted_by: str | None) -> None:
    """Resolve the alias once and record which version this run deploys, and how.

    Args:
        promoted_by: id of the task whose result holds the ``version`` that the alias has to name and the
            ``reason`` for the history; None deploys any version that the alias names.
    """
    from ..triton_deploy.deploy.request import DeployRequest

    context = get_current_context()
    params: dict[str, Any] = dict(context["params"])
    promoted = context["ti"].xcom_pull(task_ids=promoted_by) if promoted_by else {}
    with _deployment_of_run() as (deployer, model, deploy_id):
        deployer.snapshot(
            DeployRequest(
                model=model,
                alias=params["alias"],
                deploy_id=deploy_id,
                actor=f"airflow:{context['run_id']}",
                allow_schema_change=params["allow_schema_change"],
                force=params.get("force", False),
                canary=canary_of(
                    params.get("canary") or "",
                    # For a JSON schema, 20.0 is a whole number.
                    int(params.get("shadow_percent") or 0),
                    params.get("canary_minutes") or STEP_MINUTES,
                ),
                version=promoted.get("version"),
                # An earlier try of this run may have been killed before it could record its end.
                since=context["dag_run"].start_date,
                reason=promoted.get("reason", ""),
            )
        )


def materialize_repo() -> None:
    """Stream the artifact into the model repository and check it."""
    with _deployment_of_run() as (deployer, model, deploy_id):
        deployer.materialize(model, deploy_id)


def triton_load() -> None:
    """Try the candidate in the staging Triton, then load it beside the live version."""
    with _deployment_of_run() as (deployer, model, deploy_id):
        deployer.load(model, deploy_id)


def triton_ready() -> None:
    """Ask every Triton for exactly this version."""
    with _deployment_of_run() as (deployer, model, deploy_id):
        deployer.ready(model, deploy_id)


def triton_infer_smoke() -> None:
    """Compare the candidate's answers with the expected ones."""
    with _deployment_of_run() as (deployer, model, deploy_id):
        deployer.smoke(model, deploy_id)


def commit_current() -> None:
    """Make the candidate live."""
    with _deployment_of_run() as (deployer, model, deploy_id):
        deployer.commit(model, deploy_id)


def rollback_minimal() -> None:
    """Put everything back and keep what failed."""
    context = get_current_context()
    # Airflow repeats the rollback after every error: the disk or the Triton that failed may be back.
    _deployer().rollback(context["params"]["model"], deploy_id_of(context))


def _deployer() -> Deployer:
    from ..triton_deploy.deploy.deployer import Deployer

    return Deployer(Settings.from_env())


@contextmanager
def _deployment_of_run() -> Iterator[tuple[Deployer, str, str]]:
    """Yield deployer, model and deploy id of this run; see no_vain_retries for errors of the block."""
    context = get_current_context()
    deployer, model, deploy_id = _deployer(), context["params"]["model"], deploy_id_of(context)
    with no_vain_retries():
        yield deployer, model, deploy_id
