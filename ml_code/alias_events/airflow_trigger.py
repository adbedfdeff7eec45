"""The old module of the trigger.

Triggers in Airflow's database name this module, and the triggerer of the previous release imports it.
"""

from ..airflow_provider.alias_trigger import AliasTrigger

__all__ = ["AliasTrigger"]
