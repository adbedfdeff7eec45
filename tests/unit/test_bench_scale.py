"""What the benchmarks of growing cost make of what they measure."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from bench import replicas, scale
from bench.replicas import Measured, series_of, steps_ms
from bench.scale import Task, in_turn
from bench.series import summaries
from bench.site_in_memory import Publisher, fill, served, settings_at
from ml_code.triton_deploy.clients.triton import tritons_of
from ml_code.triton_deploy.repository import ModelFolder, models_in
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import FakeTriton, fake_store


def test_sizes_take_turns_and_the_first_is_what_the_others_are_compared_with() -> None:
    turns: list[str] = []
    tasks = {
        what: {size: Task(lambda at=f"{what[0]}{size}": turns.append(at)) for size in (1, 1000)}  # type: ignore[misc]
        for what in ("ask {n} models", "tell {n} models")
    }
    series = in_turn(tasks, rounds=2)
    assert turns == ["a1", "a1000", "t1", "t1000"] * 3, "the first round warms up"
    assert [(one.name, one.baseline) for one in series] == [
        ("ask 1 models", ""),
        ("ask 1,000 models", "ask 1 models"),
        ("tell 1 models", ""),
        ("tell 1,000 models", "tell 1 models"),
    ]
    assert {len(one.values) for one in series} == {2}


def test_a_value_is_the_median_for_each_of_what_it_was_done_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(scale.time, "perf_counter", lambda: next(clock))
    assert Task(lambda: None, of=4, times=3).measure() == 500


def test_what_was_filled_is_healthy_on_the_triton_that_is_stood_in_for(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    fill(root, 3)
    assert models_in(root) == ["model_0000", "model_0001", "model_0002"]
    with served(root) as url:
        settings = settings_at(root, url)
        (triton,) = tritons_of(settings)
        assert triton.ready_versions("model_0001") == triton.ready_versions("model_0001.v1") == (1,)
        assert triton.ready_versions("model_0009") == ()
        assert len(triton.loaded()) == 6
        found = Reconciler(settings).run_all()
    assert [(result.live, result.done, result.problems) for result in found] == [(1, (), ())] * 3


def test_a_model_with_many_releases_is_one_that_was_deployed(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    scale.fill_with_releases(root, 12)
    releases = ModelFolder.at(root, scale.MODEL).releases
    assert [release.generation for release in releases.history()] == list(range(12, 0, -1))
    triton = FakeTriton(root)
    triton.restart(scale.MODEL)
    assert Reconciler(settings_at(root), tritons=[triton]).run(scale.MODEL).done == ()
    with fake_store() as store:
        record = Publisher(store, settings_at(root), [triton]).deploy(scale.MODEL, 2)
    assert record.generation == 13


def test_the_steps_of_a_deploy_are_all_of_its_time(tmp_path: Path) -> None:
    began = datetime.now().astimezone()
    with fake_store() as store:
        record = Publisher(store, settings_at(tmp_path), [FakeTriton(tmp_path)]).deploy("m", 1)
    returned = datetime.now().astimezone()
    took_ms = steps_ms(began, record, returned)
    assert list(took_ms) == list(replicas.STEPS)
    assert sum(took_ms.values()) == pytest.approx(1000 * (returned - began).total_seconds())
    assert took_ms["load"] >= 0


def test_a_deploy_is_compared_with_the_bare_load_and_the_rest_with_one_triton() -> None:
    measured = {
        count: Measured(
            deploy=[500.0 * count] * 4,
            bare_load=[400.0 * count] * 4,
            steps={step: [450.0 * count if step == "load" else 5.0] * 4 for step in replicas.STEPS},
        )
        for count in (1, 8)
    }
    rows = {row.name: row for row in summaries(series_of(measured))}
    assert rows["8 Tritons: deploy"].ratio == pytest.approx(1.25)
    assert rows["1 Tritons: deploy"].ratio == pytest.approx(1.25)
    assert rows["8 Tritons: deploy without its load"].median == pytest.approx(400)
    assert rows["8 Tritons: deploy without its load"].ratio == pytest.approx(8)
    assert rows["8 Tritons: bare load, by gRPC at once"].ratio == pytest.approx(8)
    assert rows["1 Tritons: step smoke"].ratio is None
    assert rows["8 Tritons: step smoke"].ratio == 1
