"""What Prometheus is told of the deployer's records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ml_code.gateway.front.deploy_metrics import DeployMetrics
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.reconcile_note import ReconcileNote
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.upkeep.reconcile import Reconciler
from tests.support.fakes import unavailable
from tests.support.world import MODEL, World


class Scrape:
    """The numbers of one scrape, by name and labels."""

    def __init__(self, metrics: DeployMetrics) -> None:
        self.samples = {
            (sample.name.removeprefix("triton_deploy_"), *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(metrics.text().decode())
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, *sorted({"model": MODEL, **labels}.items())))


@pytest.fixture
def metrics(world: World) -> DeployMetrics:
    return DeployMetrics(world.root)


def reconcile(world: World) -> None:
    Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now).run_all()


def test_an_empty_repository_has_no_numbers(metrics: DeployMetrics) -> None:
    assert Scrape(metrics).samples == {}


def test_what_is_live_and_since_when(world: World, metrics: DeployMetrics) -> None:
    world.register_times(3)
    world.deploy()
    scrape = Scrape(metrics)
    assert (scrape("live_version"), scrape("generation")) == (3, 1)
    assert scrape("release_timestamp_seconds") == world.now.timestamp()
    assert scrape("last_success_timestamp_seconds") == world.now.timestamp()
    assert scrape("last_failure_timestamp_seconds") is None
    assert scrape("deployments", outcome="committed", step="") == 1
    assert (scrape("unfinished"), scrape("unfinished_age_seconds"), scrape("quarantined")) == (0, 0, 0)
    assert scrape("unreadable") == 0


def test_how_long_each_step_took(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    deployer = world.deployer()
    deployer.snapshot(world.request())
    for seconds, step in enumerate(
        (deployer.materialize, deployer.load, deployer.ready, deployer.smoke, deployer.commit), 2
    ):
        world.later(seconds)
        step(MODEL, "d1")
    scrape = Scrape(metrics)
    took = {
        step: scrape("step_duration_seconds", step=step)
        for step in ("materialize", "load", "ready", "smoke", "commit")
    }
    assert took == {"materialize": 2, "load": 3, "ready": 4, "smoke": 5, "commit": 6}
    assert scrape("step_duration_seconds", step="rollback") is None


def test_a_failed_deploy_is_told_with_its_step(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy("d1")
    Scrape(metrics)
    world.later(60)
    world.register_times(2, expected=5)
    with pytest.raises(DeployError):
        world.deploy("d2")
    scrape = Scrape(metrics)
    assert scrape("deployments", outcome="rolled_back", step="smoke") == 1
    assert scrape("deployments", outcome="committed", step="") == 1
    assert scrape("last_failure_timestamp_seconds") == world.now.timestamp()
    assert scrape("last_success_timestamp_seconds") == world.now.timestamp() - 60
    assert scrape("quarantined") == 1


def test_an_unfinished_deploy_grows_old(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deployer().snapshot(world.request())
    scrape = Scrape(metrics)
    assert scrape("unfinished") == 1
    # The world's clock stands in the past.
    assert (scrape("unfinished_age_seconds") or 0) > 86_400
    world.deployer().rollback(MODEL, "d1")
    assert Scrape(metrics)("unfinished_age_seconds") == 0


def test_records_that_were_collected_are_not_counted_any_more(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy("d1")
    world.deploy("d2")
    assert Scrape(metrics)("deployments", outcome="unchanged", step="") == 1
    for path in (world.root / MODEL / "deployments" / "d2").iterdir():
        path.unlink()
    (world.root / MODEL / "deployments" / "d2").rmdir()
    assert Scrape(metrics)("deployments", outcome="unchanged", step="") is None


def test_what_reconcile_found(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    assert Scrape(metrics)("reconcile_timestamp_seconds") is None
    world.triton.restart()
    reconcile(world)
    scrape = Scrape(metrics)
    assert scrape("reconcile_timestamp_seconds") == world.now.timestamp()
    assert (scrape("reconcile_repairs"), scrape("reconcile_problems"), scrape("alias_drift")) == (2, 0, 0)
    world.triton.fail["loaded"] = unavailable()
    world.later(300)
    reconcile(world)
    scrape = Scrape(metrics)
    assert scrape("reconcile_timestamp_seconds") == world.now.timestamp()
    assert (scrape("reconcile_repairs"), scrape("reconcile_problems")) == (0, 1)


def test_a_dry_run_of_reconcile_leaves_no_note(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    Reconciler(world.settings, tritons=[world.triton]).run_all(dry_run=True)
    assert world.folder.last_reconcile.read() is None


def test_a_reconcile_that_can_not_leave_its_note_is_no_problem_of_the_model(world: World) -> None:
    world.register_times(1)
    world.deploy()
    (world.root / MODEL / "reconcile.json").mkdir()
    (result,) = Reconciler(world.settings, tritons=[world.triton]).run_all()
    assert result.problems == ()


def test_an_alias_that_moved_is_told(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    world.folder.last_reconcile.write(
        ReconcileNote(at_utc="2026-01-02T03:04:05.000Z", notices={"alias_drift": "Alias A names version 2."})
    )
    assert Scrape(metrics)("alias_drift") == 1


def try_in_staging(world: World, deploy_id: str, **facts: Any) -> None:
    """End a deployment with what the staging Triton said in its record."""
    world.deployer().snapshot(world.request(deploy_id))
    journal = world.folder.journal
    at_utc = utc_text(world.now)
    record = replace(
        journal.get(deploy_id), staging={"waited_s": 0.0, "emptied": [], "at_utc": at_utc, **facts}
    )
    (world.root / MODEL / "deployments" / deploy_id / "0001.json").write_text(to_json(record))
    world.deployer().rollback(MODEL, deploy_id)


def test_what_the_staging_triton_said_last(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    assert Scrape(metrics)("staging_timestamp_seconds") is None, "there is none"
    try_in_staging(world, "d2", result="busy", waited_s=600.5)
    scrape = Scrape(metrics)
    assert scrape("staging_result", result="busy") == 1
    assert (scrape("staging_waited_seconds"), scrape("staging_emptied")) == (600.5, 0)
    assert scrape("staging_timestamp_seconds") == world.now.timestamp()
    world.later(60)
    try_in_staging(world, "d3", result="rejected", emptied=["best_model", "best_model.v7"])
    scrape = Scrape(metrics)
    assert scrape("staging_result", result="rejected") == 1
    assert scrape("staging_result", result="busy") is None
    assert (scrape("staging_waited_seconds"), scrape("staging_emptied")) == (0, 2)
    # A deployment that asks nobody there leaves it at that.
    world.later(60)
    world.deploy("d4")
    assert Scrape(metrics)("staging_timestamp_seconds") == world.now.timestamp() - 60


def test_engines_that_a_triton_does_not_let_go(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    reconcile(world)
    assert Scrape(metrics)("stuck_engines") == 0
    stuck = {"best_model.v2 on a:1": "LOADING", "best_model.v2 on b:1": "UNLOADING"}
    world.folder.last_reconcile.write(ReconcileNote(at_utc="2026-01-02T03:04:05.000Z", stuck=stuck))
    assert Scrape(metrics)("stuck_engines") == 2


def test_how_the_last_bake_ended(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    assert Scrape(metrics)("bake_result", verdict="failed") is None
    world.folder.bakes.add(
        Bake(
            model=MODEL,
            generation=1,
            version=1,
            deploy_id="d1",
            verdict=BakeVerdict.FAILED,
            reasons=("slow",),
            looks=2,
            judged=2,
            figures={},
            began_at_utc="2026-01-02T03:04:05.000Z",
            ended_at_utc="2026-01-02T03:05:05.000Z",
        )
    )
    scrape = Scrape(metrics)
    assert (scrape("bake_result", verdict="failed"), scrape("bake_result", verdict="passed")) == (1, 0)


@pytest.mark.parametrize("broken", ["releases/000001.json", "deployments/d1/0001.json"])
def test_a_damaged_record_is_told_and_hides_no_other(
    world: World, metrics: DeployMetrics, broken: str
) -> None:
    world.register_times(1)
    world.deployer().snapshot(world.request())
    world.deployer().rollback(MODEL, "d1")
    world.deploy("d2")
    path = world.root / MODEL / broken
    newest = max(path.parent.iterdir())
    newest.write_text("{")
    scrape = Scrape(metrics)
    assert scrape("unreadable") == 1
    assert scrape("quarantined") == 0
    assert (scrape("live_version") == 1) is broken.startswith("deployments")


def test_a_folder_that_can_be_no_model_is_passed_over(world: World, metrics: DeployMetrics) -> None:
    world.register_times(1)
    world.deploy()
    (world.root / "no model" / "deployments").mkdir(parents=True)
    assert Scrape(metrics)("live_version") == 1


def test_a_repository_that_is_gone_has_no_numbers(tmp_path: Path) -> None:
    assert Scrape(DeployMetrics(tmp_path / "none")).samples == {}
