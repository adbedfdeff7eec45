"""The cost of Airflow: the deploy DAG beside empty tasks, parsing of the DAG files, and imports of the tasks.

The bare chain has an empty Python task for each deploy task that a process runs, and the same last task.
Both run in turn in the same Airflow (LocalExecutor, PostgreSQL). Each deploy is of a new version, so that
every step has work to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from ml_code.train_model import train_and_register
from ml_code.training.request import TrainingRequest
from stack import Stack
from stack.airflow_api import AirflowApi, Times
from stack.errors import StackError
from stack.servers import DEPLOY_DAG, REPO

from .series import Series
from .site import MODEL

TASKS = (
    "snapshot_current",
    "materialize_repo",
    "triton_load",
    "triton_ready",
    "triton_infer_smoke",
    "canary_release",
    "commit_current",
    "bake_release",
)
"""The tasks of a successful deploy that a process runs, in their order.

The tasks of canary and bake end at once, because this deploy has neither.
"""
BARE_DAG = "bare_chain"
BARE_FILE = f'''"""As many empty tasks as a deploy has, one after the other."""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, chain, get_current_context, task

with DAG(
    dag_id="{BARE_DAG}",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={{"model": Param("{MODEL}", type="string")}},
):

    @task
    def nothing() -> None:
        """Do nothing."""

    chain(*(nothing.override(task_id=f"empty_{{number}}")() for number in range({len(TASKS)})), EmptyOperator(task_id="ended"))
'''
CONF = {"model": MODEL, "alias": "A", "bake_minutes": 0}
CHAIN, DEPLOY, EMPTY = "bare chain", "deploy", "an empty task"
RUN_TIMEOUT_S = 120
POLL_S = 1.0
"""Seconds between two queries for the end of a run.

Airflow records the exact end, and each query slows the run down.
"""
_TRITON_LOG = re.compile(
    r'^I(\d{4} [\d:.]+) .*\] "(?:(loading): ([^":]+):\d+|successfully loaded \'(.+)\')"$', re.MULTILINE
)


@dataclass
class Measured:
    """The durations of each round, seconds.

    Attributes:
        run_s: duration of the run, by DAG.
        wall_s: duration from the call that triggered the run, by DAG.
        load_s: time that Triton spent loading in the deploy.
        task_s: time in each task, by task id.
        empty_s: time in each empty task.
    """

    run_s: dict[str, list[float]] = field(default_factory=lambda: {CHAIN: [], DEPLOY: []})
    wall_s: dict[str, list[float]] = field(default_factory=lambda: {CHAIN: [], DEPLOY: []})
    load_s: list[float] = field(default_factory=list)
    task_s: dict[str, list[float]] = field(default_factory=lambda: {task: [] for task in TASKS})
    empty_s: list[float] = field(default_factory=list)


def run(quick: bool) -> list[Series]:
    """Measure whole runs and their tasks in seconds, and imports in milliseconds.

    Args:
        quick: a few rounds only.

    Returns:
        Series of runs, of tasks, of DAG files and of the imports of tasks.
    """
    inside, runs = (1, 1) if quick else (6, 5)
    with _site(inside + runs) as stack:
        # Before Airflow starts, because its processes would share the cores.
        looks = [_look_inside(stack, version) for version in range(1, inside + 1)]
        stack.start(["postgres", "airflow"])
        airflow = AirflowApi(stack.url("airflow"), stack.airflow_login)
        if not quick:
            # A first run warms up the processes of the executor.
            _ended(airflow, BARE_DAG, {})
        measured = Measured()
        for version in range(inside + 1, inside + runs + 1):
            print(f"  airflow: round {version - inside} of {runs}", flush=True)
            _round(stack, airflow, version, measured)
    return [*run_series(measured), *import_series(looks)]


def run_series(measured: Measured) -> list[Series]:
    """Return the series of whole runs and of tasks. Pure."""
    added = [ours - bare for ours, bare in zip(measured.run_s[DEPLOY], measured.run_s[CHAIN], strict=True)]
    without = [spent - load for spent, load in zip(added, measured.load_s, strict=True)]
    return [
        _seconds(f"{CHAIN} of {len(TASKS)} empty tasks", measured.run_s[CHAIN]),
        _seconds(DEPLOY, measured.run_s[DEPLOY], f"{CHAIN} of {len(TASKS)} empty tasks"),
        _seconds(f"{CHAIN}, from the trigger", measured.wall_s[CHAIN]),
        _seconds(f"{DEPLOY}, from the trigger", measured.wall_s[DEPLOY], f"{CHAIN}, from the trigger"),
        _seconds("added", added),
        _seconds("Triton's own loading", measured.load_s),
        _seconds("added without Triton's loading", without),
        _seconds(EMPTY, measured.empty_s),
        *(_seconds(f"task {task}", values, EMPTY) for task, values in measured.task_s.items()),
    ]


def import_series(looks: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Return the series of what ``bench.task_process`` measured in each round. Pure."""
    return [
        _milliseconds("import airflow.sdk", [look["sdk"] for look in looks]),
        _milliseconds(
            "a bare DAG file, with all that it uses of airflow.sdk", [look["bare"] for look in looks]
        ),
        *(
            _milliseconds(f"{file}.py, beyond the bare file", [look["files"][file] for look in looks])
            for file in looks[0]["files"]
        ),
        *(
            _milliseconds(f"imports of {task}", [look["tasks"][task] for look in looks])
            for task in looks[0]["tasks"]
        ),
    ]


def loading_s(log: str) -> float:
    """Return the time that Triton spent loading, seconds; of loads at the same time each counts in full.

    Args:
        log: lines of Triton's log.
    """
    began: dict[str, datetime] = {}
    spent_s = 0.0
    for time_text, loading, begun, loaded in _TRITON_LOG.findall(log):
        # The log has no year. A difference needs none, but the parser does: a leap year has every day.
        moment = datetime.strptime(f"2024{time_text}", "%Y%m%d %H:%M:%S.%f")
        if loading:
            began[begun] = moment
        elif loaded in began:
            spent_s += (moment - began.pop(loaded)).total_seconds()
    return spent_s


def dag_files(folder: Path) -> list[str]:
    """Return the names of the DAG files in a folder."""
    return sorted(path.stem for path in folder.glob("*.py"))


@contextlib.contextmanager
def _site(versions: int) -> Iterator[Stack]:
    """Start all servers but Airflow, and register versions; stop and clean up at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        stack = Stack(
            home,
            ["s3", "postgres", "mlflow", "triton", "airflow"],
            dags=_dag_folder(home / "dags"),
            dag_ids=[DEPLOY_DAG, BARE_DAG],
            # Airflow's default; the stack parses more often, for a developer who edits a DAG and waits.
            environment={"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30"},
        )
        try:
            stack.start(["s3", "mlflow", "triton"])
            for seed in range(1, versions + 1):
                request = TrainingRequest(model=MODEL, alias=None, seed=seed)
                train_and_register(request, stack.environment["MLFLOW_TRACKING_URI"])
            yield stack
        finally:
            stack.stop()


def _dag_folder(folder: Path) -> Path:
    """Make a folder with only the deploy DAG and the bare chain, so that no other DAG runs."""
    folder.mkdir()
    (folder / f"{DEPLOY_DAG}.py").symlink_to(REPO / "dags" / f"{DEPLOY_DAG}.py")
    (folder / f"{BARE_DAG}.py").write_text(BARE_FILE, encoding="utf-8")
    return folder


def _look_inside(stack: Stack, version: int) -> dict[str, Any]:
    """Deploy a version in processes like Airflow's task processes, and return what they measured."""
    _point_alias_at(stack, version)
    folders = os.pathsep.join([str(REPO / "dags"), str(stack.model_repository.parent / "dags")])
    command = [sys.executable, "-m", "bench.task_process", "--bare", BARE_DAG, "--dag", DEPLOY_DAG]
    command += ["--run-id", f"bench-{version}", "--params", json.dumps(CONF)]
    command += ["--files", *dag_files(REPO / "dags"), "--tasks", *TASKS]
    # With this variable Airflow sets up neither logging nor a database.
    environment = {**os.environ, **stack.environment, "_AIRFLOW__AS_LIBRARY": "1", "PYTHONPATH": folders}
    done = subprocess.run(command, cwd=REPO, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _round(stack: Stack, airflow: AirflowApi, version: int, measured: Measured) -> None:
    """Run the deploy DAG for a version, and the bare chain."""
    _point_alias_at(stack, version)
    log = stack.log_path("triton")
    before = log.stat().st_size
    tasks = _timed(airflow, DEPLOY_DAG, CONF, DEPLOY, measured)
    with log.open("rb") as file:
        file.seek(before)
        measured.load_s.append(loading_s(file.read().decode(errors="replace")))
    for task in TASKS:
        measured.task_s[task].append(tasks[task].spent_s)
    bare = _timed(airflow, BARE_DAG, {}, CHAIN, measured)
    measured.empty_s += [bare[f"empty_{number}"].spent_s for number in range(len(TASKS))]


def _timed(
    airflow: AirflowApi, dag_id: str, conf: Mapping[str, Any], name: str, measured: Measured
) -> Mapping[str, Times]:
    called_s = time.time()
    run_id = _ended(airflow, dag_id, conf)
    times = airflow.run_times(dag_id, run_id)
    measured.run_s[name].append(times.spent_s)
    measured.wall_s[name].append(times.ended.timestamp() - called_s)
    return airflow.task_times(dag_id, run_id)


def _ended(airflow: AirflowApi, dag_id: str, conf: Mapping[str, Any]) -> str:
    """Trigger a run, wait for its end, and return its id; StackError if the run fails."""
    run_id = airflow.trigger(dag_id, conf)
    state = airflow.wait(dag_id, run_id, timeout_s=RUN_TIMEOUT_S, poll_s=POLL_S)
    if state != "success":
        raise StackError(f"run {run_id} of {dag_id} ended as {state}: {airflow.task_states(dag_id, run_id)}")
    return run_id


def _point_alias_at(stack: Stack, version: int) -> None:
    url = f"{stack.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/alias"
    body = {"name": MODEL, "alias": CONF["alias"], "version": str(version)}
    requests.post(url, json=body, timeout=30).raise_for_status()


def _seconds(name: str, values: Sequence[float], baseline: str = "") -> Series:
    return Series(name=name, unit="s", values=tuple(values), baseline=baseline)


def _milliseconds(name: str, values_s: Sequence[float]) -> Series:
    return Series(name=name, unit="ms", values=tuple(1000 * value for value in values_s))
