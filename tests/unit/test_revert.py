"""Going back to a version that was live."""

import json

import pytest

from ml_code.triton_deploy.deploy.deployments import Deployments
from ml_code.triton_deploy.deploy.request import RevertRequest
from ml_code.triton_deploy.errors import DeployError, LeaseHeld, NotFound, Superseded, VerificationFailed
from ml_code.triton_deploy.rules.deployment import STEP_AFTER, Deployment, State
from tests.support.fakes import unavailable
from tests.support.models import files, golden, times
from tests.support.world import MODEL, World


def revert(world: World, version: int | None = None, deploy_id: str = "r1", **changes: str) -> Deployment:
    request = RevertRequest(model=MODEL, deploy_id=deploy_id, version=version, actor="me", **changes)
    return world.deployer().revert(request)


@pytest.fixture
def deployed(world: World) -> World:
    """Versions 1, 2 and 3 were deployed; 3 is live, 2 is warm, 1 is retired."""
    for version in (1, 2, 3):
        world.register_times(version)
        world.deploy(f"d{version}")
    return world


def test_a_revert_goes_back_to_the_version_before(deployed: World) -> None:
    calls = len(deployed.triton.calls)
    record = revert(deployed, reason="too many refunds")
    assert record.state is State.COMMITTED
    assert deployed.ask() == (2, 2.0)
    current = json.loads(deployed.current or "")
    assert (current["generation"], current["active_version"], current["previous_version"]) == (4, 2, 3)
    assert current["reason"] == "too many refunds"
    assert "load best_model.v2" not in deployed.triton.calls[calls:], "it was warm"


def test_a_revert_needs_no_mlflow(deployed: World) -> None:
    deployed.registry.models.clear()
    deployed.store.objects.clear()
    revert(deployed)
    assert deployed.ask() == (2, 2.0)


def test_a_version_that_was_retired_is_loaded_again(deployed: World) -> None:
    revert(deployed, 1)
    assert deployed.ask() == (1, 1.0)
    assert deployed.engines == {"best_model.v1", "best_model.v3"}


def test_two_reverts_go_there_and_back(deployed: World) -> None:
    revert(deployed, deploy_id="r1")
    revert(deployed, deploy_id="r2")
    assert deployed.ask() == (3, 3.0)


def test_reverting_to_the_live_version_changes_nothing(deployed: World) -> None:
    before = deployed.current
    assert revert(deployed, 3).state is State.UNCHANGED
    assert deployed.current == before


def test_a_revert_goes_back_over_a_schema_change(world: World) -> None:
    world.register_times(1)
    world.deploy("d1")
    world.register(2, files(times(2.0, source="z"), triton__golden_json=golden(2.0, source="z")))
    world.deploy("d2", allow_schema_change=True)
    revert(world)
    assert world.ask() == (1, 1.0)


@pytest.mark.parametrize("operation", ["load best_model.v1", "infer best_model.v1", "infer best_model"])
def test_a_revert_that_fails_leaves_what_is_live(deployed: World, operation: str) -> None:
    before = deployed.current
    deployed.triton.fail[operation] = unavailable()
    with pytest.raises(DeployError):
        revert(deployed, 1)
    deployed.triton.fail.clear()
    assert deployed.current == before
    assert deployed.ask() == (3, 3.0)
    assert "1" in deployed.names, "what was released is not quarantined"
    assert deployed.folder.journal.get("r1").state is State.ROLLED_BACK
    with pytest.raises(Superseded, match="rolled back"):
        revert(deployed, 1)
    assert revert(deployed, 1, deploy_id="r2").state is State.COMMITTED


def test_damaged_files_do_not_pass_the_smoke_test(deployed: World) -> None:
    (deployed.root / "best_model/1/model.onnx").write_bytes(times(7.0).SerializeToString())
    with pytest.raises(VerificationFailed):
        revert(deployed, 1)
    assert deployed.ask() == (3, 3.0)


def test_there_may_be_nothing_to_go_back_to(world: World) -> None:
    with pytest.raises(NotFound, match="No version of best_model is live"):
        revert(world)
    world.register_times(1)
    world.deploy("d1")
    with pytest.raises(NotFound, match="replaced none"):
        revert(world)
    with pytest.raises(NotFound, match="never live"):
        revert(world, 9)
    assert world.ask() == (1, 1.0)


def test_a_revert_waits_for_nobody(deployed: World) -> None:
    deployed.register_times(4)
    deployed.deployer().snapshot(deployed.request("d4"))
    with pytest.raises(LeaseHeld, match="d4"):
        revert(deployed)


# A revert that is tried again, as Airflow does when the process of its task was killed


class Killed(BaseException):
    """Stands for SIGKILL: no code of ours ends the revert."""


@pytest.mark.parametrize("killed_in", ["load", "ready", "smoke", "commit"])
def test_a_try_that_was_killed_keeps_the_next_one_neither_waiting_nor_from_the_right_version(
    deployed: World, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    def kill(self: Deployments, record: Deployment, to: State, **facts: object) -> Deployment:
        if STEP_AFTER[record.state] == killed_in:
            raise Killed
        return move(self, record, to, **facts)

    move = Deployments.move
    with monkeypatch.context() as patch:
        patch.setattr(Deployments, "move", kill)
        patch.setattr(Deployments, "rollback", lambda self, deploy_id, by="": None)
        with pytest.raises(Killed):
            revert(deployed, deploy_id="r1")
    record = deployed.deployer().revert(RevertRequest(model=MODEL, deploy_id="r2", actor="me"), ["r1"])
    assert record.state is State.COMMITTED
    assert deployed.ask() == (2, 2.0)
    assert all(known.finished for known in deployed.folder.journal.all())


def test_a_try_after_one_that_committed_does_not_go_back_to_the_bad_version(deployed: World) -> None:
    committed = revert(deployed, deploy_id="r1")
    before = deployed.current
    again = deployed.deployer().revert(RevertRequest(model=MODEL, deploy_id="r2", actor="me"), ["r1"])
    assert again == committed
    assert deployed.ask() == (2, 2.0)
    assert deployed.current == before


def test_a_try_after_one_that_failed_begins_anew(deployed: World) -> None:
    deployed.triton.fail["infer best_model"] = unavailable()
    with pytest.raises(DeployError):
        revert(deployed, deploy_id="r1")
    deployed.triton.fail.clear()
    deployed.deployer().revert(RevertRequest(model=MODEL, deploy_id="r3", actor="me"), ["r1", "r2"])
    assert deployed.ask() == (2, 2.0)
