"""The task ``bake_release``: what it waits for, and what it refuses. Airflow itself does not run here."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from tests.support.dags import library_environment
from tests.support.world import MODEL, World


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in library_environment(tmp_path_factory.mktemp("airflow")).items():
            patch.setenv(name, value)
        yield importlib.import_module("ml_code.airflow_provider.bake_task")


@pytest.fixture
def world_of_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose repository is that of the tasks' environment; there is a Prometheus, which nobody can reach."""
    monkeypatch.setenv("TRITON_DEPLOY_REPOSITORY", str(world.root))
    monkeypatch.setenv("TRITON_DEPLOY_PROMETHEUS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TRITON_DEPLOY_GRPC_URLS", "127.0.0.1:9")
    world.register_times(1)
    world.deploy("d1")
    return world


def execute(task_file: ModuleType, deploy_id: str = "d1", **params: Any) -> str:
    task = task_file.BakeOperator(task_id="bake_release")
    context = {"params": {"model": MODEL, "deploy_id": deploy_id, **params}, "run_id": "r1"}
    result: str = task.execute(context)
    return result


def deferred(task_file: ModuleType, **params: Any) -> Any:
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as raised:
        execute(task_file, **params)
    return raised.value


def bake(world: World, verdict: BakeVerdict) -> Bake:
    return world.folder.bakes.add(
        Bake(
            model=MODEL,
            generation=1,
            version=1,
            deploy_id="d1",
            verdict=verdict,
            reasons=("as the test wants it",),
            looks=1,
            judged=1,
            figures={},
            began_at_utc="2026-01-02T03:04:05.000Z",
            ended_at_utc="2026-01-02T03:05:05.000Z",
        )
    )


def test_it_waits_in_the_triggerer_for_the_release_of_its_run(
    task_file: ModuleType, world_of_tasks: World
) -> None:
    wait = deferred(task_file)
    path, arguments = wait.trigger.serialize()
    assert path == "ml_code.triton_deploy.bake.airflow_trigger.BakeTrigger", "what Airflow's database knows"
    assert arguments == {"model": MODEL, "generation": 1, "minutes": 15.0}
    assert wait.timeout.total_seconds() == 25 * 60 + 4 * 30
    assert world_of_tasks.folder.bakes.watched_until(1) == world_of_tasks.now + timedelta(minutes=15)
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name)(**arguments).serialize() == (path, arguments)


def test_the_form_says_for_how_long(task_file: ModuleType, world_of_tasks: World) -> None:
    assert deferred(task_file, bake_minutes=2).trigger.minutes == 2
    assert execute(task_file, bake_minutes=0) == "Not watched: the bake takes 0 minutes."


def test_without_a_prometheus_it_waits_for_nothing(
    task_file: ModuleType, world_of_tasks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_DEPLOY_PROMETHEUS_URL")
    assert execute(task_file) == "Not watched: TRITON_DEPLOY_PROMETHEUS_URL is not set."


def test_a_version_that_was_live_already_is_not_watched(task_file: ModuleType, world_of_tasks: World) -> None:
    world_of_tasks.deploy("d2")
    assert execute(task_file, "d2") == "Not watched: version 1 was live already."


def test_a_commit_that_somebody_marked_as_done_fails_the_run(
    task_file: ModuleType, world_of_tasks: World
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    world_of_tasks.register_times(2)
    world_of_tasks.deployer().snapshot(world_of_tasks.request("d2"))
    with pytest.raises(AirflowFailException, match="d2 is pinned, not committed"):
        execute(task_file, "d2")


def test_a_verdict_that_is_recorded_is_not_waited_for(task_file: ModuleType, world_of_tasks: World) -> None:
    bake(world_of_tasks, BakeVerdict.PASSED)
    assert "passed its bake" in execute(task_file)


def test_wrong_queries_are_told_before_anybody_waits(
    task_file: ModuleType, world_of_tasks: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    monkeypatch.setenv("TRITON_DEPLOY_BAKE_QUERIES", str(tmp_path / "none.toml"))
    with pytest.raises(AirflowFailException, match="can't be used"):
        execute(task_file)


def test_the_triggerer_gives_the_verdict_and_the_task_acts_on_it(
    task_file: ModuleType, world_of_tasks: World
) -> None:
    """The release's minutes are long over, and Prometheus is away: that is no data, which passes with a warning."""
    from ml_code.airflow_provider.triggers import BakeTrigger

    trigger = BakeTrigger(MODEL, 1, 0.01)

    async def event() -> Any:
        return await anext(aiter(trigger.run()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml_code.triton_deploy.watch.release_watch.PATIENCE", 1)
        payload = asyncio.run(event()).payload
    assert Bake.from_json(payload).verdict is BakeVerdict.NO_DATA
    task = task_file.BakeOperator(task_id="bake_release")
    context = {"params": {"model": MODEL, "deploy_id": "d1"}, "run_id": "r1"}
    assert "could not be judged" in task.resume(context, payload)
    assert world_of_tasks.folder.bakes.find(1) == Bake.from_json(payload)
