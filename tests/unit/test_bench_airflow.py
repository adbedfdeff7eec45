"""What the benchmark of Airflow reads, and how it counts."""

from __future__ import annotations

import importlib
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.airflow import BARE_FILE, TASKS, Measured, import_series, loading_s, run_series
from bench.task_process import ImportClock, in_a_fork
from stack.airflow_api import Times

TRITON_LOG = """\
I1125 23:59:59.900000 20478 model_lifecycle.cc:472] "loading: best_model.v2:2"
I1125 23:59:59.950000 20478 python_be.cc:2249] "TRITONBACKEND_ModelInstanceInitialize: best_model.v2_0_0 (CPU device 0)"
I1126 00:00:00.100000 20478 model_lifecycle.cc:839] "successfully loaded 'best_model.v2'"
I1126 00:00:00.200000 20478 model_lifecycle.cc:472] "loading: best_model:2"
E1126 00:00:00.210000 20478 ensemble_scheduler.cc:1468] "unable to create stream for best_model: no CUDA"
I1126 00:00:00.250000 20478 model_lifecycle.cc:839] "successfully loaded 'best_model'"
I1126 00:00:00.300000 20478 model_lifecycle.cc:624] "successfully unloaded 'best_model' version 1"
"""
IMPORTED_HERE = "imported_by_the_test_of_the_clock"


def measured(deploy_s: list[float], bare_s: list[float], load_s: list[float]) -> Measured:
    found = Measured(load_s=load_s, empty_s=[0.25] * len(TASKS))
    found.run_s = {"deploy": deploy_s, "bare chain": bare_s}
    found.wall_s = {
        "deploy": [value + 1 for value in deploy_s],
        "bare chain": [value + 1 for value in bare_s],
    }
    for task in TASKS:
        found.task_s[task] = deploy_s
    return found


def test_what_is_added_is_of_the_same_round() -> None:
    series = {one.name: one for one in run_series(measured([10.0, 20.0], [8.0, 19.5], [0.5, 0.25]))}
    assert series["added"].values == (2.0, 0.5)
    assert series["added without Triton's loading"].values == (1.5, 0.25)
    assert series["deploy"].values == (10.0, 20.0)
    assert series["deploy, from the trigger"].values == (11.0, 21.0)


def test_every_baseline_is_a_series_of_the_bench() -> None:
    series = run_series(measured([10.0], [8.0], [0.5]))
    assert {one.baseline for one in series if one.baseline} <= {one.name for one in series}


def test_triton_loads_from_the_word_that_it_begins_to_the_word_that_it_did() -> None:
    """Across midnight, and with what else it says in between."""
    assert loading_s(TRITON_LOG) == pytest.approx(0.2 + 0.05)


def test_a_load_that_did_not_end_counts_nothing() -> None:
    assert loading_s(TRITON_LOG.splitlines()[0] + "\n") == 0


def test_each_file_and_each_task_has_a_series_in_milliseconds() -> None:
    looks = [
        {"sdk": 1.0, "bare": 0.5, "files": {"a_dag": 0.01}, "tasks": {"load": 0.2}},
        {"sdk": 2.0, "bare": 0.6, "files": {"a_dag": 0.02}, "tasks": {"load": 0.1}},
    ]
    assert [(one.unit, one.values) for one in import_series(looks)] == [
        ("ms", (1000.0, 2000.0)),
        ("ms", (500.0, 600.0)),
        ("ms", (10.0, 20.0)),
        ("ms", (200.0, 100.0)),
    ]


def test_the_bare_chain_has_a_task_for_each_of_ours() -> None:
    assert f"range({len(TASKS)})" in BARE_FILE
    compile(BARE_FILE, "bare_chain.py", "exec")


def test_an_import_in_an_import_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{IMPORTED_HERE}.py").write_text(
        f"import time\nimport {IMPORTED_HERE}_too\ntime.sleep(0.05)\n"
    )
    (tmp_path / f"{IMPORTED_HERE}_too.py").write_text("import time\ntime.sleep(0.05)\n")
    monkeypatch.syspath_prepend(tmp_path)
    began_s = time.perf_counter()
    with ImportClock() as clock:
        exec(f"import {IMPORTED_HERE}")
    took_s = time.perf_counter() - began_s
    assert 0.1 <= clock.spent_s <= took_s


def test_what_is_no_import_does_not_count() -> None:
    with ImportClock() as clock:
        time.sleep(0.05)
    assert clock.spent_s == 0


def test_a_fork_leaves_its_parent_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{IMPORTED_HERE}_in_a_fork"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> float:
        importlib.import_module(name)
        return 7.5

    assert in_a_fork(work) == 7.5
    assert name not in sys.modules


def test_a_fork_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> float:
        raise LookupError("there is no such task")

    with pytest.raises(RuntimeError, match="traceback above"):
        in_a_fork(work)
    assert "there is no such task" in capfd.readouterr().err


def test_the_time_in_a_task_is_from_its_begin_to_its_end() -> None:
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert Times(began, began + timedelta(seconds=90.5)).spent_s == 90.5
