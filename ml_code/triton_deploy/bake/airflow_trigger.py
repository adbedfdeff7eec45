"""The old place of the triggers, by which Airflow's database and an earlier triggerer find them."""

from ...airflow_provider.triggers import BakeTrigger, CanaryTrigger

__all__ = ["BakeTrigger", "CanaryTrigger"]
