"""The task that watches a release after its commit, and takes a bad release back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from ..triton_deploy.settings import Settings
from .deploy_run import deploy_id_of, failure_in, no_vain_retries

if TYPE_CHECKING:
    from ..triton_deploy.rules.bake_record import Bake
    from ..triton_deploy.upkeep.bake import Baking


class BakeOperator(BaseOperator):
    """Bakes the release of this run's deployment; succeeds at once without a commit, or if no bake is due.

    The wait holds no worker slot. The task acts on that one release: if another release is live, it
    changes nothing.
    """

    def execute(self, context: Any) -> str:
        """Hand the watch to the triggerer, unless there is nothing to wait for."""
        with no_vain_retries():
            return self._begin(context)

    def resume(self, context: Any, event: str | dict[str, Any]) -> str:
        """Record the verdict, and take a bad release back; raises the error of a watch that failed."""
        from ..triton_deploy.rules.bake_record import Bake

        if isinstance(event, dict):
            raise failure_in(event)

        with no_vain_retries():
            settings = Settings.from_env()
            # The verdict is recorded first: a retry takes the release back without another watch.
            return self._conclude(_baking(settings, context), Bake.from_json(event))

    def _begin(self, context: Any) -> str:
        from ..triton_deploy.repository import ModelFolder
        from ..triton_deploy.rules.deployment import State

        settings = Settings.from_env()
        baking = _baking(settings, context)
        folder = ModelFolder.at(settings.repository_root, context["params"]["model"])
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

        # The first look is here: faults in the queries or in Prometheus then fail the task at once.
        baking.watch(release.generation).look()
        baking.note_watch(release)
        minutes = _minutes(settings, context)
        raise TaskDeferred(
            trigger=BakeTrigger(record.model, release.generation, minutes),
            method_name="resume",
            # Time for the last looks, and for a restart of the triggerer.
            timeout=timedelta(minutes=minutes + 10, seconds=PATIENCE * settings.bake.interval_s),
        )

    def _conclude(self, baking: Baking, bake: Bake) -> str:
        text = baking.conclude(bake).text
        self.log.info("%s", text)
        return text


def _minutes(settings: Settings, context: Any) -> float:
    """Return the length of the bake, minutes: the run's param, or that of the settings."""
    minutes = context["params"].get("bake_minutes")
    return settings.bake.minutes if minutes is None else float(minutes)


def _baking(settings: Settings, context: Any) -> Baking:
    """Return the bakes of the run's model."""
    from ..triton_deploy.upkeep.bake import Baking
    from ..triton_deploy.watch.policy import BakePolicy

    policy = BakePolicy.of(settings, _minutes(settings, context))
    return Baking(settings, context["params"]["model"], policy, actor=f"airflow:{context['run_id']}")
