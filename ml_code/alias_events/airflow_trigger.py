"""Where the trigger was, and is still sought by what waits in Airflow's database, and by a triggerer of the release before."""

from ..airflow_provider.alias_trigger import AliasTrigger

__all__ = ["AliasTrigger"]
