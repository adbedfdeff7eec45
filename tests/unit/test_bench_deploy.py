"""What is made of the figures of deploys, and how a process is measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from bench import deploy_tables
from bench.artifacts import Size, write
from bench.deploy import plain_config, steps
from bench.processes import run
from bench.series import Series
from ml_code.triton_deploy.model.onnx_model import external_files, inspect
from ml_code.triton_deploy.model.smoke_case import parse_case

MIB = 1 << 20


def test_a_process_is_measured_without_who_started_it(tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(16)) * (20 * MIB)
    target = tmp_path / "written"
    script = (
        f"import os; held = b'x' * {40 * MIB}; file = open({str(target)!r}, 'wb'); file.write(held); "
        "file.flush(); os.fsync(file.fileno()); print('said')"
    )
    cost, said = run([sys.executable, "-c", script], os.environ)
    assert said == "said\n"
    assert len(ballast) > 300 * MIB
    assert 40 < cost.peak_mib < 120
    assert cost.status == 0
    assert cost.cpu_s > 0
    assert cost.began_s < cost.ended_s
    # A file system in memory counts no bytes.
    assert cost.written_bytes == 0 or 40 * MIB <= cost.written_bytes < 41 * MIB


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        run([sys.executable, "-c", "raise SystemExit('no such thing')"], os.environ)


def test_steps_are_what_lies_between_the_times_of_a_record() -> None:
    states = ["pinned", "materialized", "loaded", "ready", "verified", "committed"]
    times = {state: f"2026-01-01T00:00:0{place + 1}.500Z" for place, state in enumerate(states)}
    began_s = 1767225600.0
    assert steps(times, began_s, began_s + 8) == {
        "snapshot": 1.5,
        "materialize": 1.0,
        "load": 1.0,
        "ready": 1.0,
        "smoke": 1.0,
        "commit": 1.0,
        "end": 1.5,
    }


@pytest.mark.parametrize("external", [False, True])
def test_the_models_are_what_a_training_logs(tmp_path: Path, external: bool) -> None:
    write(Size("tiny", 16, 3, external), tmp_path)
    schema = inspect(tmp_path / "model.onnx", max_opset=26, max_ir_version=13)
    assert external_files(tmp_path / "model.onnx") == (("weights.bin",) if external else ())
    weights = tmp_path / ("weights.bin" if external else "model.onnx")
    assert 3 * 16 * 16 * 4 <= weights.stat().st_size < 3 * 16 * 16 * 4 + 1024
    case = parse_case((tmp_path / "triton/golden.json").read_text(), schema)
    model = onnx.load(tmp_path / "model.onnx")
    answer = case.inputs["x"]
    for tensor in model.graph.initializer:
        answer = answer @ onnx.numpy_helper.to_array(tensor)
    np.testing.assert_allclose(case.outputs["y"], answer, rtol=1e-4)


def test_the_plain_model_has_triton_s_default_policy() -> None:
    config = plain_config("plain", Size("tiny", 16, 1))
    assert 'name: "plain"' in config
    assert "dims: 16" in config
    assert "version_policy" not in config


def series(name: str, unit: str, *values: float, baseline: str = "") -> Series:
    return Series(name=name, unit=unit, values=values, baseline=baseline)


FIGURES = [
    series("1 GB, direct: ours, whole process", "s", 3, 1, 2, baseline="1 GB, direct: naive, whole process"),
    series(
        "1 GB, direct: ours, without Triton's load",
        "s",
        1,
        baseline="1 GB, direct: naive, without Triton's load",
    ),
    series("1 GB, direct: ours, peak memory", "MiB", 100),
    series("1 GB, direct: ours, written", "x size", 1),
    series("1 GB, direct: ours, snapshot", "s", 0.25),
    series("1 GB, direct: ours, load", "s", 0.5),
    series("1 GB, direct: naive, whole process", "s", 5),
    series("1 GB, direct: naive, without Triton's load", "s", 3),
    series("1 GB, direct: naive, peak memory", "MiB", 200),
    series("1 GB, direct: naive, written", "x size", 2),
]


def test_the_table_of_costs_has_a_row_for_each_way() -> None:
    assert deploy_tables.costs(FIGURES).splitlines()[2:] == [
        "| 1 GB, direct: ours | 2 s | 1 s | 100 MiB | 1 x size | 0.40 | 0.33 |",
        "| 1 GB, direct: naive | 5 s | 3 s | 200 MiB | 2 x size |  |  |",
    ]


def test_the_table_of_steps_has_a_row_for_each_of_ours() -> None:
    assert deploy_tables.steps(FIGURES, ("snapshot", "load")).splitlines()[2:] == [
        "| 1 GB, direct: ours | 0.250 | 0.500 |"
    ]
