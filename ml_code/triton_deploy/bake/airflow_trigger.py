"""Where the triggers were, and are still sought by what waits in Airflow's database, and by a triggerer of the release before."""

from ...airflow_provider.triggers import BakeTrigger, CanaryTrigger

__all__ = ["BakeTrigger", "CanaryTrigger"]
