"""``python -m bench.task_process``: measures the imports of Airflow's processes; ``bench.airflow`` starts it.

The process imports ``airflow.sdk`` and a bare DAG file, and forks for each file and each task, as Airflow
does: so each is measured with nothing imported but Airflow. A task runs its real code on the real servers.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any


class ImportClock:
    """Counts the time that threads spend in import statements inside a ``with`` block.

    A nested import counts once. The import of a loaded module costs almost nothing.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._import = builtins.__import__
        self._here = threading.local()
        self._lock = threading.Lock()

    def __enter__(self) -> ImportClock:
        """Begin to count."""
        builtins.__import__ = self._counted
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        builtins.__import__ = self._import

    def _counted(self, *arguments: Any, **options: Any) -> Any:
        if getattr(self._here, "imports", False):
            return self._import(*arguments, **options)
        self._here.imports = True
        began_s = time.perf_counter()
        try:
            return self._import(*arguments, **options)
        finally:
            self._here.imports = False
            with self._lock:
                self.spent_s += time.perf_counter() - began_s


def in_a_fork(work: Callable[[], float]) -> float:
    """Run ``work`` in a forked process, and return its result.

    Raises:
        RuntimeError: ``work`` failed; the traceback is on stderr.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the forked process failed: see its traceback above")
    return float(json.loads(text))


def import_s(module: str) -> float:
    """Import a module and return the time that it took, seconds."""
    began_s = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - began_s


def imports_of_task_s(dag: Any, task_id: str, context: dict[str, Any]) -> float:
    """Run a task as Airflow's task process does, and return the time of its imports, seconds."""
    task = dag.get_task(task_id)
    # A task function calls for the context; an operator gets it as an argument.
    vars(importlib.import_module("ml_code.airflow_provider.tasks"))["get_current_context"] = lambda: context
    work = getattr(task, "python_callable", None)
    with ImportClock() as clock:
        work() if work else task.execute(context)
    return clock.spent_s


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the result as a line of JSON; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.task_process", description=__doc__)
    parser.add_argument("--bare", required=True, help="module of a DAG file that uses Airflow only")
    parser.add_argument("--files", nargs="+", required=True, help="modules of the DAG files")
    parser.add_argument("--dag", required=True, help="the one of them whose tasks are run, its module and id")
    parser.add_argument("--tasks", nargs="+", required=True, help="its tasks, in the order of a run")
    parser.add_argument(
        "--params", type=json.loads, required=True, help="what differs from the form, as JSON"
    )
    parser.add_argument("--run-id", required=True, help="id of the run")
    options = parser.parse_args(argv)
    measured: dict[str, Any] = {"sdk": import_s("airflow.sdk"), "bare": import_s(options.bare)}
    measured["files"] = {file: in_a_fork(lambda file=file: import_s(file)) for file in options.files}  # type: ignore[misc]
    dag = importlib.import_module(options.dag).dag
    context = {
        "params": {**dag.params.dump(), **options.params},
        "run_id": options.run_id,
        "dag": dag,
        "ti": None,
    }
    measured["tasks"] = {
        task: in_a_fork(lambda task=task: imports_of_task_s(dag, task, context))  # type: ignore[misc]
        for task in options.tasks
    }
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
