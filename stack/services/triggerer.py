"""Airflow's triggerer, in which deferred tasks wait."""

from __future__ import annotations

from collections.abc import Mapping

from ..readiness import airflow_component_runs
from ..site import Service, Site
from .airflow import component


def service(site: Site, env: Mapping[str, str]) -> Service:
    """Return the triggerer; another component makes its database, perhaps at the same moment."""
    wait = ["db", "check-migrations", "--migration-wait-timeout", "120"]
    return Service(
        first=component(env, "migrated", *wait, one_shot=True),
        programs=[component(env, "triggerer", "triggerer", "--skip-serve-logs")],
        probe=lambda: airflow_component_runs(site.url("airflow"), "triggerer"),
        ports=[],
        after=["postgres"],
    )
