"""The tasks of a deploy, for every DAG that makes one: no DAG has a copy of them.

Airflow puts the folder of the DAGs on the path of whatever parses or runs one, so a DAG file imports this by its bare name.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, TriggerRule, chain, get_current_context, task

from ..triton_deploy.settings import Settings
from .bake_task import BakeOperator
from .canary_task import CanaryOperator, longest
from .deploy_run import deploy_id_of, no_vain_retries
from .notifier import DeployNotifier
from .run_params import own_deployment_only

MARGIN_S = 600
"""Time for what a step does besides waiting for its own deadlines."""
TRANSFER_BYTES_PER_S = 1 << 20
"""The largest artifact that is accepted may take as long as at this pace, and an hour."""


@dataclass(frozen=True)
class DeployTasks:
    """Where a deploy is tied into a DAG.

    Attributes:
        snapshot: the first task; with its upstream tasks skipped or failed, nothing is deployed.
        commit: the task after which the version is live.
        bake: watches it then, and fails when it was bad.
        rollback: runs when a step failed, or when what comes before the first one did: it finds that nothing had begun then.
        deployed: succeeds when everything did; a leaf, so that a failed deploy makes a failed run.
    """

    snapshot: Any
    commit: Any
    bake: BakeOperator
    rollback: Any
    deployed: EmptyOperator


def bake_minutes() -> Param:
    """Return the param that says how long the release is watched."""
    return Param(
        None,
        type=["null", "number"],
        minimum=0,
        maximum=1440,
        description="How long the release is watched, minutes; empty: TRITON_DEPLOY_BAKE_MINUTES, 0: not at all.",
    )


def limit(*deadlines_s: float) -> timedelta:
    """Return a task's time limit: the deadlines inside, which come first and say what is the matter, and a margin."""
    return timedelta(seconds=sum(deadlines_s) + MARGIN_S)


def run_step(name: str, promoted_by: str | None = None) -> None:
    """Run one step of this run's deployment; an error that a retry can't mend fails the task at once.

    Args:
        name: the step.
        promoted_by: the task whose result says which version the alias has to name, and why; by default any.
    """
    from ..triton_deploy.deploy.deployer import Deployer
    from ..triton_deploy.deploy.request import DeployRequest
    from ..triton_deploy.rules.canary import canary_of

    context = get_current_context()
    params: dict[str, Any] = dict(context["params"])
    model, deploy_id = params["model"], deploy_id_of(context)
    deployer = Deployer(Settings.from_env())
    promoted = context["ti"].xcom_pull(task_ids=promoted_by) if promoted_by else {}
    # A rollback is repeated whatever stopped it: a disk or a Triton may be back.
    with nullcontext() if name == "rollback" else no_vain_retries():
        if name == "snapshot":
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
                        params.get("canary_minutes") or 10,
                    ),
                    version=promoted.get("version"),
                    # A try of this run may have ended without being able to say so.
                    since=context["dag_run"].start_date,
                    reason=promoted.get("reason", ""),
                )
            )
        else:
            getattr(deployer, name)(model, deploy_id)


def deploy_tasks(settings: Settings, promoted_by: str | None = None) -> DeployTasks:
    """Add the tasks of a deploy to the DAG that is being declared.

    The DAG has the params ``model``, ``alias`` and ``allow_schema_change``, and may have ``force``, ``deploy_id``, ``bake_minutes``,
    ``canary``, ``shadow_percent`` and ``canary_minutes``.

    Args:
        settings: the deadlines that the tasks' time limits follow.
        promoted_by: id of the task before, whose result has the ``version`` that the alias has to name and the ``reason`` for the
            history; by default whatever the alias names is deployed.
    """
    # A handful of inferences: each step does them on one Triton, then on the others at once.
    one_triton_s = 7 * settings.triton.infer_timeout_s

    # It may have to load what serves again, when it settles what an abandoned deploy left.
    @task(execution_timeout=limit(settings.mlflow.alias_wait_s, settings.triton.load_timeout_s))
    def snapshot_current() -> None:
        """Resolve the alias once and record what is to be deployed."""
        run_step("snapshot", promoted_by)

    # The transfer ends by itself when it is too slow; Celery would hand out a task of a day to a second worker.
    largest_s = min(settings.transfer.max_artifact_bytes / TRANSFER_BYTES_PER_S, 20 * 3600)

    @task(execution_timeout=limit(3600, largest_s))
    def materialize_repo() -> None:
        """Stream the artifact into the model repository and check it."""
        run_step("materialize")

    @task(
        execution_timeout=limit(
            2 * settings.triton.load_timeout_s, one_triton_s, settings.triton.trial_limit_s
        )
    )
    def triton_load() -> None:
        """Try the candidate in the staging Triton, then load it beside the live version."""
        run_step("load")

    @task(execution_timeout=limit(settings.triton.ready_timeout_s))
    def triton_ready() -> None:
        """Ask every Triton for exactly this version."""
        run_step("ready")

    @task(execution_timeout=limit(2 * one_triton_s))
    def triton_infer_smoke() -> None:
        """Compare the candidate's answers with the expected ones."""
        run_step("smoke")

    # A flip that fails is undone at once; what serves may have to be loaded for that.
    @task(execution_timeout=limit(2 * one_triton_s, settings.triton.load_timeout_s))
    def commit_current() -> None:
        """Make the candidate live."""
        run_step("commit")

    @task(
        trigger_rule=TriggerRule.ONE_FAILED,
        execution_timeout=limit(settings.triton.load_timeout_s),
        retries=5,
        retry_delay=timedelta(seconds=5),
        pre_execute=own_deployment_only,
        on_success_callback=DeployNotifier("rolled_back"),
        on_failure_callback=DeployNotifier("rollback_failed"),
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
        # Its wait in the triggerer counts.
        CanaryOperator(task_id="canary_release", execution_timeout=longest(settings) + limit()),
        commit_current(),
    ]
    rollback = rollback_minimal()
    # A release that bakes badly is reverted by its own task: the rollback is for what is not committed.
    bake = BakeOperator(
        task_id="bake_release",
        # To take a release back it may have to wait for a deploy that is under way.
        retries=10,
        retry_delay=timedelta(seconds=30),
        on_success_callback=DeployNotifier("baked"),
        on_failure_callback=DeployNotifier("baked"),
        # Its wait in the triggerer counts, a day at most; then it may load three times, as every revert.
        execution_timeout=timedelta(days=1)
        + limit(3 * settings.triton.load_timeout_s, settings.triton.ready_timeout_s),
    )
    chain(*steps, bake, deployed)
    steps >> rollback
    return DeployTasks(snapshot=steps[0], commit=steps[-1], bake=bake, rollback=rollback, deployed=deployed)
