"""Copies of DAGs that differ in a setting: one that a user might change, or one that makes a test quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stack.servers import DEPLOY_DAG, REPO

QUICK_RETRIES = "deploy_with_quick_retries"
NO_RETRIES = "deploy_without_retries"
RUN_TIMEOUT = "deploy_with_a_run_timeout"

COPIES: Mapping[str, Mapping[str, str]] = {
    QUICK_RETRIES: {'"retry_delay": timedelta(seconds=10)': '"retry_delay": timedelta(seconds=1)'},
    NO_RETRIES: {
        '"retries": 2': '"retries": 0',
        "deploy_tasks(SETTINGS)": 'deploy_tasks(SETTINGS)\n    dag.get_task("triton_load").execution_timeout = timedelta(seconds=25)',
    },
    RUN_TIMEOUT: {"max_active_runs=1,": "max_active_runs=1,\n    dagrun_timeout=timedelta(seconds=35),"},
}
"""The replacements in the text of each copy of the deploy DAG."""

RETRAIN_DAG = "retrain_and_deploy"
IMPATIENT = "retrain_impatiently"

RETRAIN_COPIES: Mapping[str, Mapping[str, str]] = {
    IMPATIENT: {"timedelta(seconds=RETRAIN.approval_timeout_s)": "timedelta(seconds=1)"},
}
"""The same of the DAG that retrains."""


def dags_with_copies(folder: Path) -> Path:
    """Make a folder for Airflow that has the project's DAGs, as links, and the copies."""
    folder.mkdir()
    for file in (REPO / "dags").glob("*.py"):
        (folder / file.name).symlink_to(file)
    for dag_id, copies in ((DEPLOY_DAG, COPIES), (RETRAIN_DAG, RETRAIN_COPIES)):
        # Only the first lines of a file may look into the future.
        original = (REPO / "dags" / f"{dag_id}.py").read_text()
        original = original.replace("from __future__ import annotations\n", "")
        changed = (
            _changed(original, {f'"{dag_id}"': f'"{name}"', **changes}) for name, changes in copies.items()
        )
        (folder / f"copies_of_{dag_id}.py").write_text("\n".join(changed))
    return folder


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, f"the DAG has no longer one {old!r}"
        text = text.replace(old, new)
    return text
