"""The tasks of a deploy, for every DAG that has one, with time limits, retries and their order.

``deploy_steps`` holds the functions that the tasks call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, TriggerRule, chain, task

from ..triton_deploy.settings import Settings
from . import deploy_steps
from .bake_task import BakeOperator
from .canary_task import CanaryOperator, longest
from .notifier import DeployNotifier
from .run_params import own_deployment_only

MARGIN_S = 600
"""Time of a step beside the deadlines that it waits for, seconds."""
TRANSFER_BYTES_PER_S = 1 << 20
"""Slowest transfer of the largest accepted artifact that ``materialize_repo`` waits for."""
LONGEST_TRANSFER_S = 20 * 3600
"""Celery's visibility timeout is a day: a second worker would get a task that runs for longer."""


@dataclass(frozen=True)
class DeployTasks:
    """The tasks by which a DAG ties a deploy to its other tasks.

    Attributes:
        snapshot: the first task; a DAG whose own tasks before it were skipped or failed deploys nothing.
        commit: the task that makes the version live.
        bake: watches the release after the commit, and fails if the release was bad.
        rollback: runs if a step failed, or a task before the first step. In the second case no deployment
            has begun, and the rollback changes nothing.
        deployed: succeeds if all others did; a leaf, so that a failed deploy makes a failed run.
    """

    snapshot: Any
    commit: Any
    bake: BakeOperator
    rollback: Any
    deployed: EmptyOperator


def bake_minutes() -> Param:
    """Return the param for the length of the bake."""
    return Param(
        None,
        type=["null", "number"],
        minimum=0,
        maximum=1440,
        description="How long the release is watched, minutes; empty: TRITON_DEPLOY_BAKE_MINUTES, 0: not at all.",
    )


def limit(*deadlines_s: float) -> timedelta:
    """Return a task's time limit: the deadlines of its step, seconds, and a margin.

    The deadlines end first: a step then says which server it waited for, and a task that Airflow ends says
    nothing.
    """
    return timedelta(seconds=sum(deadlines_s) + MARGIN_S)


def deploy_tasks(settings: Settings, promoted_by: str | None = None) -> DeployTasks:
    """Add the tasks of a deploy to the DAG that is being declared.

    The DAG has the params ``model``, ``alias`` and ``allow_schema_change``, and may have ``force``,
    ``deploy_id``, ``bake_minutes``, ``canary``, ``shadow_percent`` and ``canary_minutes``.

    Args:
        settings: the deadlines, from which the time limits of the tasks follow.
        promoted_by: id of the task before, whose result holds the ``version`` that the alias has to name
            and the ``reason`` for the history; None deploys any version that the alias names.
    """
    # A step sends a handful of inferences to one Triton, then to all others at the same time.
    one_triton_s = 7 * settings.triton.infer_timeout_s
    transfer_s = min(settings.transfer.max_artifact_bytes / TRANSFER_BYTES_PER_S, LONGEST_TRANSFER_S)

    # The snapshot settles an abandoned deploy, and may have to load the live version again for that.
    @task(execution_timeout=limit(settings.mlflow.alias_wait_s, settings.triton.load_timeout_s))
    def snapshot_current() -> None:
        """Resolve the alias once and record what is to be deployed."""
        deploy_steps.snapshot(promoted_by)

    steps = [
        snapshot_current(),
        _step(deploy_steps.materialize_repo, limit(3600, transfer_s)),
        _step(
            deploy_steps.triton_load,
            limit(2 * settings.triton.load_timeout_s, one_triton_s, settings.triton.trial_limit_s),
        ),
        _step(deploy_steps.triton_ready, limit(settings.triton.ready_timeout_s)),
        _step(deploy_steps.triton_infer_smoke, limit(2 * one_triton_s)),
        # The time in the triggerer counts.
        CanaryOperator(task_id="canary_release", execution_timeout=longest(settings) + limit()),
        # A failed flip is undone at once, and the live version may have to be loaded for that.
        _step(deploy_steps.commit_current, limit(2 * one_triton_s, settings.triton.load_timeout_s)),
    ]
    bake, rollback = _bake(settings), _rollback(settings)
    # Airflow takes a run's state from its leaves: with the rollback as the only leaf, a failed deploy
    # would be green.
    deployed = EmptyOperator(task_id="deployed", trigger_rule=TriggerRule.ALL_SUCCESS)

    chain(*steps, bake, deployed)
    # No edge from the bake: the bake itself reverts a bad release.
    steps >> rollback
    return DeployTasks(snapshot=steps[0], commit=steps[-1], bake=bake, rollback=rollback, deployed=deployed)


def _step(function: Callable[[], None], time_limit: timedelta) -> Any:
    return task(execution_timeout=time_limit)(function)()


def _bake(settings: Settings) -> BakeOperator:
    return BakeOperator(
        task_id="bake_release",
        # A revert may have to wait for a deploy that is under way.
        retries=10,
        retry_delay=timedelta(seconds=30),
        on_success_callback=DeployNotifier("baked"),
        on_failure_callback=DeployNotifier("baked"),
        # The time in the triggerer counts, a day at most. Then a revert may load three times.
        execution_timeout=timedelta(days=1)
        + limit(3 * settings.triton.load_timeout_s, settings.triton.ready_timeout_s),
    )


def _rollback(settings: Settings) -> Any:
    return task(
        trigger_rule=TriggerRule.ONE_FAILED,
        execution_timeout=limit(settings.triton.load_timeout_s),
        retries=5,
        retry_delay=timedelta(seconds=5),
        pre_execute=own_deployment_only,
        on_success_callback=DeployNotifier("rolled_back"),
        on_failure_callback=DeployNotifier("rollback_failed"),
    )(deploy_steps.rollback_minimal)()
