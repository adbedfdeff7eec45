"""The tasks of ``reconcile_triton`` and ``gc_triton``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException

from ..triton_deploy.settings import Settings

if TYPE_CHECKING:
    from ..triton_deploy.upkeep.gc import Collected
    from ..triton_deploy.upkeep.reconcile import Reconciled


def reconcile() -> None:
    """Reconcile every model of the repository; the next run or try repeats the models that failed."""
    from ..triton_deploy.upkeep.reconcile import Reconciler

    deep = get_current_context()["params"]["deep"]
    _fail_on_problems(Reconciler(Settings.from_env()).run_all(deep=deep))


def gc() -> list[dict[str, str]]:
    """Collect every model of the repository; the next run or try repeats the models that failed."""
    from ..triton_deploy.upkeep.gc import GarbageCollector

    dry_run = get_current_context()["params"]["dry_run"]
    results = GarbageCollector(Settings.from_env()).run_all(dry_run=dry_run)
    _fail_on_problems(results)
    return [
        {"model": result.model, "kind": removed.kind.value, "name": removed.name, "why": removed.why}
        for result in results
        for removed in result.removed
    ]


def _fail_on_problems(results: Iterable[Reconciled | Collected]) -> None:
    problems = [f"{result.model}: {problem}" for result in results for problem in result.problems]
    if problems:
        raise AirflowFailException("; ".join(problems))
