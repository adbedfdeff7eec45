"""A revert of what is live wins over a canary that is only on trial, and over nothing that is being switched."""

from __future__ import annotations

from typing import Any

import pytest

from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import BakeFailed, LeaseHeld, NotFound, Superseded, VerificationFailed
from ml_code.triton_deploy.rules.bake_record import Bake, BakeVerdict
from ml_code.triton_deploy.rules.bake_rules import Limits
from ml_code.triton_deploy.rules.canary_course import CanaryVerdict
from ml_code.triton_deploy.rules.canary_evidence import Watched
from ml_code.triton_deploy.rules.deployment import Deployment, State, advance
from ml_code.triton_deploy.rules.moments import utc_text
from ml_code.triton_deploy.upkeep.bake import Baking
from ml_code.triton_deploy.watch.policy import BakePolicy
from tests.support.canaries import Scene
from tests.support.world import MODEL, World


def reverted(scene: Scene, **changes: Any) -> Deployment:
    request = RevertRequest(model=MODEL, deploy_id="back", actor="operator", reason="it fails", **changes)
    return scene.deployer().revert(request)


def on_trial(world: World) -> Scene:
    """Version 1 was live, 2 is; version 3 is on trial in a deployment named d2."""
    scene = Scene(world, live=2)
    deployer = scene.until_canary()
    assert deployer.look_at_canary(MODEL, "d2") is not None
    assert scene.share == 5
    return scene


def test_a_revert_ends_a_canary_that_is_only_on_trial_and_blames_nobody(world: World) -> None:
    scene = on_trial(world)
    assert reverted(scene).state is State.COMMITTED
    assert world.ask() == (1, 1.0)
    assert scene.share == 0
    ended = scene.record
    assert ended.state is State.ROLLED_BACK
    assert ended.failure is not None
    assert (ended.failure.step, ended.failure.kind, ended.failure.blames_artifact) == (
        "canary",
        "superseded",
        False,
    )
    assert "A revert of best_model by operator came first" in ended.failure.error
    assert "it fails" in ended.failure.error
    assert world.deploy("again").state is State.COMMITTED, "nothing is known against its model"
    assert world.ask() == (3, 3.0)


def test_whoever_watches_such_a_canary_is_told_whose_revert_came_first(world: World) -> None:
    scene = on_trial(world)
    reverted(scene)
    with pytest.raises(Superseded, match="A revert of best_model by operator came first"):
        scene.deployer().look_at_canary(MODEL, "d2")


def test_a_canary_that_has_ended_well_and_is_not_committed_yet_is_on_trial_too(world: World) -> None:
    scene = on_trial(world)
    assert scene.pass_by(scene.deployer(), 3600) is None
    assert scene.record.state is State.TRIED
    reverted(scene)
    assert world.ask() == (1, 1.0)


@pytest.mark.parametrize("state", [State.SWITCHING, State.COMMITTING])
def test_what_has_begun_to_be_switched_is_waited_for(world: World, state: State) -> None:
    scene = on_trial(world)
    assert scene.pass_by(scene.deployer(), 3600) is None
    record = scene.record
    for step in (State.SWITCHING, State.COMMITTING):
        record = world.folder.journal.append(advance(record, step, world.now), record)
        if step is state:
            break
    with pytest.raises(LeaseHeld) as raised:
        reverted(scene)
    assert scene.record.state is state
    assert "process is gone" not in str(raised.value)
    assert "triton-deploy rollback best_model --deploy-id d2" in raised.value.hint


def test_a_revert_that_can_not_be_done_ends_no_canary(world: World) -> None:
    scene = on_trial(world)
    for changes, error in (
        ({"version": 9}, NotFound),
        ({"only_generation": 1}, Superseded),
        # It is live: nothing is to be taken back.
        ({"version": 2}, LeaseHeld),
    ):
        with pytest.raises(error):
            reverted(scene, **changes)
    assert scene.share == 5


def test_a_dry_run_of_such_a_revert_says_what_is_rolled_back_first(world: World) -> None:
    scene = on_trial(world)
    plan = scene.deployer().plan_revert(RevertRequest(model=MODEL, deploy_id="back"))
    assert not plan.obstacles
    assert plan.does[0] == "roll back deployment d2, whose candidate is only on trial"
    assert plan.facts["under_way"] == "d2"
    assert scene.share == 5


def test_a_rollback_by_hand_says_whose_it_is(world: World) -> None:
    scene = on_trial(world)
    scene.deployer().rollback(MODEL, "d2", by="ada@laptop")
    assert scene.record.failure is not None
    assert (scene.record.failure.kind, scene.record.failure.error) == (
        "rolled_back",
        "ada@laptop rolled it back.",
    )
    with pytest.raises(Superseded, match="ada@laptop rolled it back"):
        scene.deployer().look_at_canary(MODEL, "d2")


def test_a_bad_bake_takes_its_release_back_while_a_canary_runs(world: World) -> None:
    scene = on_trial(world)
    bad = Bake(
        model=MODEL,
        generation=2,
        version=2,
        deploy_id="v2",
        verdict=BakeVerdict.FAILED,
        reasons=("10 % of the requests fail",),
        looks=2,
        judged=2,
        figures={},
        began_at_utc=utc_text(world.now),
        ended_at_utc=utc_text(world.now),
    )
    policy = BakePolicy(duration_s=600, interval_s=60, window_s=120, bad_looks=2, limits=Limits())
    baking = Baking(world.settings, MODEL, policy, deployer=scene.deployer(), actor="bake")
    with pytest.raises(BakeFailed, match="Version 1 is live again"):
        baking.conclude(bad)
    assert world.ask() == (1, 1.0)
    assert scene.record.failure is not None
    assert "by bake came first" in scene.record.failure.error


def test_a_deploy_whose_rollback_somebody_else_completes_calls_for_no_repeat(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(world)
    unload = world.triton.unload

    def with_another(*arguments: Any) -> None:
        monkeypatch.setattr(world.triton, "unload", unload)
        scene.deployer().rollback(MODEL, "d2", by="ada@laptop")
        unload(*arguments)

    def fails(watched: Watched) -> CanaryVerdict:
        monkeypatch.setattr(world.triton, "unload", with_another)
        return CanaryVerdict.FAIL

    scene.verdict = fails
    with pytest.raises(VerificationFailed):
        scene.deploy()
    assert scene.record.state is State.ROLLED_BACK
    assert world.triton.unload is unload, "both were at it"
    assert "did not complete" not in caplog.text
