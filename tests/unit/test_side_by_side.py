"""Two versions of this package work on one repository, as in a rolling upgrade: what one wrote, the other goes on with."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_code.triton_deploy.deploy.deployer import Deployer
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import LeaseHeld, Quarantined, VerificationFailed
from ml_code.triton_deploy.rules.canary import canary_of
from ml_code.triton_deploy.rules.deployment import Canary, Deployment, Failure, State
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.rules.version_files import Manifest
from ml_code.triton_deploy.rules.writer import to_json
from ml_code.triton_deploy.upkeep.gc import GarbageCollector
from ml_code.triton_deploy.upkeep.reconcile import Reconciled, Reconciler
from ml_code.triton_deploy.upkeep.status import model_status
from tests.support.earlier import EarlierCode, write_repository
from tests.support.fakes import FakeTriton
from tests.support.recorded import NOW, RECORD
from tests.support.settings import by_variable, changed
from tests.support.signing import declared
from tests.support.world import MODEL, World, deployed

COMMITS = ("537c519", "39eb77d", "d7e7a7d")
WITH_CODE = COMMITS[:2]
"""Those whose code is in tests/data."""


def went_on(world: World, commit: str, situation: str) -> World:
    """Let another commit's code have worked in ``world`` until its process was killed, an hour ago; returns the world.

    Version 3 is live, version 2 warm, version 4 in quarantine; ``d5`` may be half done. Triton was restarted with all that is there.
    """
    write_repository(commit, situation, world.root)
    world.later(3600)
    world.register_times(6)
    world.triton.restart_with_all()
    return world


def reconcile(world: World) -> Reconciled:
    reconciler = Reconciler(world.settings, tritons=[world.triton], clock=lambda: world.now)
    return reconciler.run(MODEL, deep=True)


def revert(world: World, version: int) -> None:
    world.deployer().revert(
        RevertRequest(model=MODEL, deploy_id=f"back-to-{version}", version=version, actor="me")
    )


def healthy(world: World, version: int) -> None:
    """What has to be true after everything, by the code under test."""
    assert world.ask() == (version, float(version))
    assert json.loads(world.current or "")["active_version"] == version
    found = reconcile(world)
    assert (found.live, found.done, found.problems) == (version, (), ())
    world.triton.restart(MODEL)
    assert world.ask() == (version, float(version))


@pytest.fixture(params=COMMITS)
def commit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# What earlier code wrote


def test_status_reads_what_earlier_code_wrote(
    world: World, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on(world, commit, "live")
    monkeypatch.setattr("ml_code.triton_deploy.upkeep.status.tritons_of", lambda settings: [world.triton])
    status = model_status(world.settings, MODEL)
    assert status.live is not None
    assert (status.live.active_version, status.live.warm_versions) == (3, (2,))
    assert (status.agrees, status.unfinished, status.problems) == (True, None, ())
    assert list(status.quarantined) == ["4.failed_20260102T030705"]


def test_reconcile_has_nothing_to_say_of_it(world: World, commit: str) -> None:
    went_on(world, commit, "live")
    assert reconcile(world).problems == ()
    healthy(world, 3)


def test_a_deploy_goes_on_top_of_it(world: World, commit: str) -> None:
    went_on(world, commit, "live")
    assert world.deploy("d6").state is State.COMMITTED
    healthy(world, 6)


def test_what_failed_with_it_is_refused(world: World, commit: str) -> None:
    went_on(world, commit, "live").register_times(4, expected=5)
    with pytest.raises(Quarantined):
        world.deploy("again")
    healthy(world, 3)


@pytest.mark.parametrize("version", [2, 1], ids=["warm", "cold"])
def test_it_is_reverted(world: World, commit: str, version: int) -> None:
    went_on(world, commit, "live")
    revert(world, version)
    healthy(world, version)


def test_gc_lets_go_what_is_old(world: World, commit: str) -> None:
    went_on(world, commit, "live").later(100 * 86_400)
    settings = changed(
        world.settings,
        retention__keep_releases=1,
        retention__keep_quarantined=0,
        retention__quarantine_days=1.0,
    )
    found = GarbageCollector(settings, tritons=[world.triton], clock=lambda: world.now).run(MODEL)
    assert found.problems == ()
    assert [one.name for one in found.removed if one.kind == "version"] == ["1"]
    healthy(world, 3)


@pytest.mark.parametrize("situation", ["loaded", "watched"])
def test_a_deployment_that_it_left_half_done_is_undone(world: World, commit: str, situation: str) -> None:
    went_on(world, commit, situation)
    assert reconcile(world).problems == ()
    assert world.folder.journal.get("d5").state is State.ROLLED_BACK
    healthy(world, 3)
    world.deploy("d6")
    healthy(world, 6)


def test_a_deployment_that_it_had_decided_is_finished(world: World, commit: str) -> None:
    went_on(world, commit, "committing")
    world.deploy("d6")
    assert world.folder.journal.get("d5").state is State.COMMITTED
    assert [release.active_version for release in world.folder.releases.history()] == [6, 5, 3, 2, 1]
    healthy(world, 6)


# What the code under test wrote


@pytest.fixture(scope="module", params=WITH_CODE)
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EarlierCode:
    return EarlierCode(request.param, tmp_path_factory.getbasetemp())


class Earlier:
    """Earlier code in a world in which ours has worked."""

    def __init__(self, code: EarlierCode, world: World) -> None:
        self.code = code
        self.world = world
        kind, values = code.module("settings").Settings, by_variable(world.settings)
        self.settings = kind(**{f.name: values[f.metadata["variable"]] for f in fields(kind)})

    @property
    def folder(self) -> Any:
        return self.code.module("repository").ModelFolder.at(self.world.root, MODEL)

    def deploy(self, deploy_id: str) -> Any:
        world = self.world
        deployer = self.code.module("deployer").Deployer(
            self.settings,
            registry=world.registry,
            stores=lambda uri: world.store,
            tritons=[world.triton],
            clock=lambda: world.now,
        )
        request = self.code.module("intake").DeployRequest(
            model=MODEL, alias="A", deploy_id=deploy_id, actor="old"
        )
        return deployer.deploy(request)

    def reconcile(self) -> Any:
        reconciler = self.code.module("reconcile").Reconciler(
            self.settings, tritons=[self.world.triton], clock=lambda: self.world.now
        )
        return reconciler.run(MODEL, deep=True)


@pytest.fixture
def old(earlier: EarlierCode, world: World) -> Earlier:
    """Ours deployed versions 1 to 3 and went back to 2; version 4 failed, version 5 was tried in a staging Triton and failed in a canary."""
    deployed(world)
    world.register_times(4, expected=5)
    with pytest.raises(VerificationFailed):
        world.deploy("d4")
    world.register_times(5)
    staged = Deployer(
        changed(world.settings, triton__staging_grpc_url="staging:1", triton__staging_wait_s=0),
        registry=world.registry,
        stores=lambda uri: world.store,
        tritons=[world.triton],
        staging=FakeTriton(world.root, "staging:1"),
        clock=lambda: world.now,
        sign=declared,
    )
    assert staged.deploy(world.request("d5")).staging
    revert(world, 2)
    world.register_times(6)
    return Earlier(earlier, world)


def test_earlier_code_reads_all_that_ours_wrote(old: Earlier) -> None:
    ours, theirs = old.world.folder, old.folder
    assert [asdict(release)["deploy_id"] for release in theirs.releases.history()] == [
        release.deploy_id for release in ours.releases.history()
    ]
    assert asdict(theirs.releases.projected()).items() <= asdict(theirs.releases.latest()).items()
    states = {record.deploy_id: str(record.state) for record in theirs.journal.all()}
    assert states == {record.deploy_id: str(record.state) for record in ours.journal.all()}
    assert theirs.versions.installed() == ours.versions.installed()
    for version in theirs.versions.installed():
        assert theirs.versions.manifest(version).digest == manifest_of(old.world, version).digest
    assert [path.name for path, _ in theirs.versions.quarantined()] == [
        path.name for path, _ in ours.quarantine.failures()
    ]
    assert theirs.lease.last(old.world.now) == ours.lease.last(old.world.now)


def manifest_of(world: World, version: int) -> Manifest:
    return world.folder.versions.require(version)


def test_earlier_code_reads_a_record_in_which_everything_is_said(earlier: EarlierCode) -> None:
    """Also what no test makes happen: a suspect that a canary on one Triton met."""
    full = replace(
        RECORD,
        staging={"result": "passed"},
        given={"t:1": utc_text(NOW)},
        ended={"t:1": utc_text(NOW)},
        failure=Failure(step="load", kind="ended_triton", error="e", at_utc=utc_text(NOW), suspect=True),
        canary=Canary(
            shares_percent=(0, 5, 25),
            shadow_percent=0,
            step_s=60,
            triton="t:1",
            tritons=("t:1", "t:2"),
            key="secret",
            waits=(1,),
            told={"what": "pause"},
            held_utc=utc_text(NOW),
            held_for="a person has to end this step",
            unjudged=("testers alone: me promoted it",),
            counted={"http://g:1": {"gateway_canary_failures_total/failed": 1}},
        ),
    )
    read = earlier.module("records").Deployment.from_json(to_json(full))
    assert (read.failure.kind, read.canary.shares_percent) == ("ended_triton", (0, 5, 25))
    assert Deployment.from_json(to_json(full)) == full


def test_earlier_code_deploys_on_top_of_ours_and_ours_goes_back(old: Earlier) -> None:
    assert old.reconcile().problems == ()
    assert old.deploy("d6").state == "committed"
    world = old.world
    assert reconcile(world).problems == ()
    healthy(world, 6)
    revert(world, 5)
    healthy(world, 5)


def test_earlier_code_finds_right_what_ours_made_of_its_own(old: Earlier) -> None:
    old.deploy("d6")
    old.world.register_times(7)
    old.world.deploy("d7")
    assert old.reconcile().problems == ()
    assert old.world.ask() == (7, 7.0)
    assert (old.folder.releases.latest().active_version, old.folder.releases.latest().generation) == (7, 7)


@pytest.mark.parametrize("shares", ["", "5,25"], ids=["plain", "canary"])
def test_earlier_code_leaves_alone_what_ours_has_under_way_and_undoes_it_when_it_went_silent(
    old: Earlier, shares: str
) -> None:
    world, deployer = old.world, old.world.deployer(bake__prometheus_url="http://prometheus:9090")
    deployer.snapshot(world.request("d6", canary=canary_of(shares, 0, 10)))
    for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
        step(MODEL, "d6")
    assert old.reconcile().under_way == "d6"
    with pytest.raises(old.code.module("errors").LeaseHeld, match="d6"):
        old.deploy("other")
    world.later(3600)
    assert old.reconcile().problems == ()
    assert world.folder.journal.get("d6").state is State.ROLLED_BACK
    # Earlier code leaves a file of the engine that it does not know.
    assert reconcile(world).problems == ()
    healthy(world, 2)


def test_ours_leaves_alone_what_earlier_code_has_under_way(world: World) -> None:
    went_on(world, "39eb77d", "loaded").later(-3600 + timedelta(minutes=5).total_seconds())
    assert reconcile(world).under_way == "d5"
    with pytest.raises(LeaseHeld, match="d5"):
        world.deploy("d6")


def test_the_fixtures_are_small() -> None:
    data = Path(__file__).resolve().parents[1] / "data"
    assert sum(path.stat().st_size for path in data.iterdir()) < 300_000
