"""The environment in which a DAG's file is imported without Airflow."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).parents[2]


def library_environment(home: Path) -> dict[str, str]:
    """Airflow as a library: it sets up no logging and no database, and reads no airflow.cfg of this user."""
    return {"_AIRFLOW__AS_LIBRARY": "1", "AIRFLOW_HOME": str(home)}
