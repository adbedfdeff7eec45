"""The task that watches a release after its commit, and takes it back when it is bad."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.names import deploy_id_for
from ml_code.triton_deploy.settings import Settings


class BakeOperator(BaseOperator):
    """Bakes what this run's deployment committed; succeeds at once when it committed nothing, or nothing is to be watched.

    While it waits it holds no worker slot. It acts on that one release: when another one is live, it ends without doing anything.
    """

    def execute(self, context: Any) -> str:
        """Hand the watch to the triggerer, unless there is nothing to wait for."""
        from ml_code.triton_deploy.bake.airflow_trigger import BakeTrigger
        from ml_code.triton_deploy.records import State
        from ml_code.triton_deploy.repository import ModelFolder

        baking, minutes = self._baking(context)
        params = context["params"]
        folder = ModelFolder.at(Settings.from_env().repository_root, params["model"])
        record = folder.journal.get(params.get("deploy_id") or deploy_id_for(str(context["run_id"])))
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
        baking.watch(release.generation)
        # The looks, the patience at their end, and a triggerer that is restarted.
        limit = timedelta(minutes=minutes, seconds=600)
        self.defer(
            trigger=BakeTrigger(record.model, release.generation, minutes),
            method_name="resume",
            timeout=limit,
        )
        raise AssertionError("defer does not return")

    def resume(self, context: Any, event: str) -> str:
        """Record the verdict, and take the release back if it is bad."""
        from ml_code.triton_deploy.records import Bake

        return self._conclude(self._baking(context)[0], Bake.from_json(event))

    def _baking(self, context: Any) -> tuple[Any, float]:
        from ml_code.triton_deploy.bake.baking import Baking
        from ml_code.triton_deploy.bake.policy import BakePolicy

        settings, params = Settings.from_env(), context["params"]
        minutes = params.get("bake_minutes")
        minutes = settings.bake_minutes if minutes is None else float(minutes)
        policy = BakePolicy.of(settings, minutes)
        return Baking(settings, params["model"], policy, actor=f"airflow:{context['run_id']}"), minutes

    def _conclude(self, baking: Any, bake: Any) -> str:
        try:
            text: str = baking.conclude(bake).text
        except DeployError as error:
            # The verdict is recorded: a retry takes the release back, without watching it again.
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from error
        self.log.info("%s", text)
        return text
