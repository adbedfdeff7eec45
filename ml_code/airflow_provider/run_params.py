"""The params that several DAGs have, and the checks of a run's conf before every task of every DAG."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ..alias_events.settings import EventSettings
from ..triton_deploy.errors import DeployError
from ..triton_deploy.rules.names import LONGEST_REASON, MODEL_PATTERN, UNSEEN_PATTERN
from ..triton_deploy.settings import Settings, variables
from .deploy_run import deploy_id_of
from .notifier import DeployNotifier
from .run_conf import refuse_ignored, refuse_no_number, refuse_unknown

ONE_LINE: dict[str, Any] = {"not": {"type": "string", "pattern": UNSEEN_PATTERN}}
"""Part of the schema of a text param: the "$" of its pattern alone would accept a line break at the end."""


def model_param(default: str, description: str) -> Param:
    """Return the param that names a model.

    Args:
        default: the model of a run that names none.
        description: text of the form.
    """
    return Param(default, type="string", pattern=MODEL_PATTERN, description=description, **ONE_LINE)


def reason_param(description: str) -> Param:
    """Return the param for a person's reason; it may be empty.

    Args:
        description: text of the form.
    """
    return Param(None, type=["null", "string"], maxLength=LONGEST_REASON, description=description, **ONE_LINE)


def known_params_only(context: Any) -> None:
    """Fail a task in its ``pre_execute`` if its run has an unknown param or a setting is misspelt."""
    refused = _refusal(context)
    if refused is None:
        return
    if not context["task"].upstream_task_ids:
        DeployNotifier("refused", str(refused))(context)
    raise AirflowFailException(str(refused))


def own_deployment_only(context: Any) -> None:
    """Skip a task that restores a state, in its ``pre_execute``, if this run was refused before it began.

    The ``deploy_id`` of a refused run may name the deployment of another run.
    """
    refused = _refusal(context)
    if refused is not None and not _has_begun(context):
        raise AirflowSkipException(f"Nothing is to be put back. {refused}")


def _refusal(context: Any) -> DeployError | None:
    dag, params = context["dag"], context["params"]
    conf = context["dag_run"].conf or {}
    try:
        variables.check([Settings, EventSettings], changes=True)
        # 'airflow tasks test' has no conf: it adds unknown keys to the params.
        refuse_unknown(dag.dag_id, {**conf, **params}, list(dag.params))
        refuse_ignored(dag.dag_id, conf, params)
        refuse_no_number(dag.dag_id, params)
    except DeployError as error:
        return error
    return None


def _has_begun(context: Any) -> bool:
    """Whether this run has a deployment: a new version of the DAG may refuse a run that has begun."""
    from ..triton_deploy.repository import ModelFolder

    folder = ModelFolder.at(Settings.from_env().repository_root, context["params"]["model"])
    record = folder.journal.find(deploy_id_of(context))
    return record is not None and record.actor == f"airflow:{context['run_id']}"
