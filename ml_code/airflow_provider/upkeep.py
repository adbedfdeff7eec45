"""What the tasks of ``reconcile_triton`` and ``gc_triton`` do."""

from __future__ import annotations

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException

from ..triton_deploy.settings import Settings


def reconcile() -> None:
    """Reconcile every model of the repository; the next run tries again what failed, and a next try what was killed."""
    from ..triton_deploy.upkeep.reconcile import Reconciler

    deep = get_current_context()["params"]["deep"]
    results = Reconciler(Settings.from_env()).run_all(deep=deep)
    problems = [f"{result.model}: {problem}" for result in results for problem in result.problems]
    if problems:
        raise AirflowFailException("; ".join(problems))


def gc() -> list[dict[str, str]]:
    """Collect every model of the repository; the next run tries again what failed, and a next try what was killed."""
    from ..triton_deploy.upkeep.gc import GarbageCollector

    dry_run = get_current_context()["params"]["dry_run"]
    results = GarbageCollector(Settings.from_env()).run_all(dry_run=dry_run)
    problems = [f"{result.model}: {problem}" for result in results for problem in result.problems]
    if problems:
        raise AirflowFailException("; ".join(problems))
    return [
        {"model": result.model, "kind": removed.kind.value, "name": removed.name, "why": removed.why}
        for result in results
        for removed in result.removed
    ]
