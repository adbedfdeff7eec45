"""The task that watches a release after its commit, and takes it back when it is bad."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of, no_vain_retries


class BakeOperator(BaseOperator):
    """Bakes what this run's deployment committed; succeeds at once when it committed nothing, or nothing is to be watched.

    While it waits it holds no worker slot. It acts on that one release: when another one is live, it ends without doing anything.
    """

    def execute(self, context: Any) -> str:
        """Hand the watch to the triggerer, unless there is nothing to wait for."""
        with no_vain_retries():
            return self._begin(context)

    def resume(self, context: Any, event: str | dict[str, Any]) -> str:
        """Record the verdict, and take the release back if it is bad; a watch that could not be kept says why."""
        from ..triton_deploy.rules.bake_record import Bake

        if isinstance(event, dict):
            raise (AirflowException if event["retryable"] else AirflowFailException)(event["error"])

        # The verdict is recorded first: a retry takes the release back, without watching it again.
        with no_vain_retries():
            return self._conclude(_baking(context)[0], Bake.from_json(event))

    def _begin(self, context: Any) -> str:
        from ..triton_deploy.repository import ModelFolder
        from ..triton_deploy.rules.deployment import State

        settings, params = Settings.from_env(), context["params"]
        baking, minutes = _baking(context)
        folder = ModelFolder.at(settings.repository_root, params["model"])
        record = folder.journal.get(deploy_id_of(context))
        if record.state is State.UNCHANGED:
            return f"Not watched: version {record.version} was live already."
        release = baking.release_of(record)
        if release is None:
            raise AirflowFailException(
                f"Deployment {record.deploy_id} is {record.state}, not committed: somebody marked a task of this run. "
                "Nothing is live because of it; reconcile_triton settles it."
            )
        if not baking.is_due:
            return str(baking.not_due)
        ended = baking.recorded(release.generation)
        if ended is not None:
            return self._conclude(baking, ended)
        from ..triton_deploy.watch.release_watch import PATIENCE
        from .triggers import BakeTrigger

        # What is wrong with the queries or with Prometheus is said at once, not by the triggerer.
        baking.watch(release.generation).look()
        raise TaskDeferred(
            trigger=BakeTrigger(record.model, release.generation, minutes),
            method_name="resume",
            # The last looks, and a triggerer that is restarted.
            timeout=timedelta(minutes=minutes + 10, seconds=PATIENCE * settings.bake.interval_s),
        )

    def _conclude(self, baking: Any, bake: Any) -> str:
        text: str = baking.conclude(bake).text
        self.log.info("%s", text)
        return text


def _baking(context: Any) -> tuple[Any, float]:
    """Return the bakes of the run's model, and for how many minutes its release is watched."""
    from ..triton_deploy.upkeep.bake import Baking
    from ..triton_deploy.watch.policy import BakePolicy

    settings, params = Settings.from_env(), context["params"]
    minutes = params.get("bake_minutes")
    minutes = settings.bake.minutes if minutes is None else float(minutes)
    policy = BakePolicy.of(settings, minutes)
    return Baking(settings, params["model"], policy, actor=f"airflow:{context['run_id']}"), minutes
