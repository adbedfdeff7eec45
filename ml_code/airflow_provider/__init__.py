"""The operators, triggers and tasks of which the DAGs are made; no other package imports Airflow.

A DAG of your own, in any folder, imports these names from here::

    from ml_code.airflow_provider import ONE_LINE, bake_minutes, deploy_tasks, known_params_only

The module of a name is imported at the first use of the name: the triggerer imports a trigger, and needs
none of the tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alias_trigger import AliasTrigger
    from .bake_task import BakeOperator
    from .canary_task import CanaryOperator
    from .deploy_run import deploy_id_of, no_vain_retries
    from .notifier import DeployNotifier
    from .run_params import ONE_LINE, known_params_only, model_param, own_deployment_only, reason_param
    from .tasks import DeployTasks, bake_minutes, deploy_tasks, limit

__all__ = [
    "ONE_LINE",
    "AliasTrigger",
    "BakeOperator",
    "CanaryOperator",
    "DeployNotifier",
    "DeployTasks",
    "bake_minutes",
    "deploy_id_of",
    "deploy_tasks",
    "known_params_only",
    "limit",
    "model_param",
    "no_vain_retries",
    "own_deployment_only",
    "reason_param",
]

_MODULES = {
    "alias_trigger": ("AliasTrigger",),
    "bake_task": ("BakeOperator",),
    "canary_task": ("CanaryOperator",),
    "deploy_run": ("deploy_id_of", "no_vain_retries"),
    "notifier": ("DeployNotifier",),
    "run_params": ("ONE_LINE", "known_params_only", "model_param", "own_deployment_only", "reason_param"),
    "tasks": ("DeployTasks", "bake_minutes", "deploy_tasks", "limit"),
}


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` from its module."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
